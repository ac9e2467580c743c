package erofs

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxDecoded is what an extent may have when it is decompressed, as in the
// kernel (Z_EROFS_PCLUSTER_MAX_DSIZE).
const maxDecoded = 12 << 20

const (
	adviseInterlaced = 0x10
	adviseFragment   = 0x20
	wholeFragment    = 0x80 // of the header's last byte
)

// uncompressed is an image as the reader of what is not compressed takes it:
// without the features that only say how files are compressed.
type uncompressed struct{ io.ReaderAt }

func (u uncompressed) ReadAt(p []byte, off int64) (int, error) {
	n, err := u.ReaderAt.ReadAt(p, off)
	for at := range p[:n] {
		switch off + int64(at) - superOffset {
		case superIncompat:
			p[at] &^= incompatPadding | incompatClusters | incompatInline
		case superAlgorithms, superAlgorithms + 1:
			p[at] = 0
		}
		if off+int64(at) > superOffset+superAlgorithms {
			break
		}
	}
	return n, err
}

// zImage is what the superblock says of compressed files.
type zImage struct {
	r       io.ReaderAt
	bits    uint  // 1 << bits is a block
	inodes  int64 // where they are counted from, bytes
	padding bool
	zstd    func() (*zstd.Decoder, error)
}

func newZImage(r io.ReaderAt) (*zImage, error) {
	sb := make([]byte, superSize)
	if _, err := r.ReadAt(sb, superOffset); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	z := &zImage{r: r, bits: uint(sb[superBlockBits]), padding: le.Uint32(sb[superIncompat:])&incompatPadding != 0}
	z.inodes = int64(le.Uint32(sb[superInodes:])) << z.bits
	z.zstd = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxDecoded), zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true))
	})
	return z, nil
}

// zContent is the contents of a compressed file.
type zContent struct {
	image *zImage
	nid   int64
	size  int64 // bytes, more than none
}

// Open reads the beginning of the index. What follows is read as it is used.
func (c zContent) Open() (io.ReadCloser, error) {
	f := &zFile{zContent: c}
	if err := f.open(); err != nil {
		return nil, f.error(err)
	}
	return f, nil
}

// zFile reads a compressed file from its beginning to its end.
type zFile struct {
	zContent
	full       bool
	advise     uint16
	algorithms [2]byte
	inline     int
	base       int64 // where the index begins
	entries    int64
	before     int64 // entries in small packs before the large ones
	large      int64 // entries in large packs

	pack   []zEntry // the pack that was read last
	packAt int64    // its first entry
	after  int64    // where it ends

	next int64  // the entry of the extent that is decompressed next
	head zEntry // and what it says
	pos  int64  // and where that begins in the file
	rest []byte // what is decompressed and not yet read
	in   []byte
	out  []byte
}

// zEntry is one of the index.
type zEntry struct {
	kind   byte
	offset int64  // of a head: where in its block it begins
	block  uint32 // of a head
	count  int    // of the first entry behind a head: blocks, if it says so
}

func (f *zFile) open() error {
	inode := f.image.inodes + f.nid*slot
	var b [mapHeader]byte
	if _, err := f.image.r.ReadAt(b[:4], inode); err != nil {
		return err
	}
	le := binary.LittleEndian
	format := le.Uint16(b[:])
	start := inode + compactInode
	if format&1 != 0 {
		start = inode + extendedInode
	}
	if n := int64(le.Uint16(b[2:])); n > 0 {
		start += xattrHeader + (n-1)*4
	}
	start += -start & 7
	if _, err := f.image.r.ReadAt(b[:], start); err != nil {
		return err
	}
	f.full = format&0xe == layoutFull
	f.advise = le.Uint16(b[4:])
	f.algorithms = [2]byte{b[6] & 15, b[6] >> 4}
	f.entries = (f.size-1)>>f.image.bits + 1
	f.base = start + mapHeader
	large := f.advise&adviseSmallPacks != 0
	switch {
	case b[7]&wholeFragment != 0 || f.advise&adviseFragment != 0:
		return notSupported("a fragment, which is not supported")
	case b[7]&15 != 0:
		return notSupported("clusters of several blocks, which are not supported")
	case f.full && large:
		return notSupported("extents instead of an index, which are not supported")
	case f.full:
		f.base += 8
	case f.image.bits > 14 || large && f.image.bits > entryBits:
		return fault.Errorf(fault.Source, "blocks of 1 << %d bytes in an index that has no room for that", f.image.bits)
	}
	if f.advise&adviseInline != 0 {
		f.inline = int(le.Uint16(b[2:]))
	}
	f.before, f.large = packs(f.base, f.entries, large)
	var err error
	f.head, err = f.entry(0)
	if err == nil && (f.head.kind == entryInside || f.head.offset != 0) {
		err = fault.Errorf(fault.Source, "the index does not begin with an extent")
	}
	return err
}

// entry is an entry of the index. They are asked for in their order, so that a
// pack is read when its first one is.
func (f *zFile) entry(i int64) (zEntry, error) {
	if i >= f.packAt+int64(len(f.pack)) {
		f.packAt = i
		read := f.readPack
		if f.full {
			read = f.readEntry
		}
		if err := read(i); err != nil {
			return zEntry{}, err
		}
	}
	e := f.pack[i-f.packAt]
	if e.kind != entryInside && e.offset >= 1<<f.image.bits {
		return e, fault.Errorf(fault.Source, "an extent begins behind its block %d", i)
	}
	return e, nil
}

// readEntry reads one entry of a full index.
func (f *zFile) readEntry(i int64) error {
	var b [8]byte
	at := f.base + i*8
	if _, err := f.image.r.ReadAt(b[:], at); err != nil {
		return err
	}
	le := binary.LittleEndian
	e := zEntry{kind: b[0] & 3, offset: int64(le.Uint16(b[2:])), block: le.Uint32(b[4:])}
	if back := le.Uint16(b[4:]); e.kind == entryInside && back&blockCount != 0 {
		e.count = int(back &^ blockCount)
	}
	f.pack, f.after = append(f.pack[:0], e), at+8
	return nil
}

// readPack reads the pack of a compact index that begins with an entry.
func (f *zFile) readPack(first int64) error {
	slots, width, at := smallPack, uint(16), f.base+first*4
	if first >= f.before {
		at = f.base + f.before*4 + (first-f.before)*2
		if first < f.before+f.large {
			slots, width = largePack, 14
		} else {
			at += (first - f.before - f.large) * 2
		}
	}
	var buf [largePack*2 + 4]byte
	b := buf[:slots*int(width)/8+4]
	if _, err := f.image.r.ReadAt(b, at); err != nil {
		return err
	}
	f.after = at + int64(len(b))
	f.pack = f.pack[:0]
	block := binary.LittleEndian.Uint32(b[len(b)-4:])
	clusters := f.advise&adviseClusters != 0
	valueBits := max(f.image.bits, entryBits)
	for i := range uint(slots) {
		v := binary.LittleEndian.Uint32(buf[i*width/8:]) >> (i * width % 8)
		value := v & (1<<valueBits - 1)
		e := zEntry{kind: byte(v >> valueBits & 3)}
		switch {
		case e.kind == entryInside && clusters && value&blockCount != 0:
			e.count = int(value &^ blockCount)
			block += uint32(e.count)
		case e.kind != entryInside:
			// A head has one block if nothing behind it says another number.
			// Without clusters the first one is that behind the pack's own.
			if !clusters || i > 0 && f.pack[i-1].kind != entryInside {
				block++
			}
			e.offset, e.block = int64(value), block
		}
		f.pack = append(f.pack, e)
	}
	return nil
}

func (f *zFile) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.pos == f.size {
			return 0, io.EOF
		}
		if err := f.extent(); err != nil {
			return 0, f.error(err)
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *zFile) Close() error { return nil }

// error says where damage is.
func (f *zFile) error(err error) error {
	return fmt.Errorf("inode %d, byte %d: %w", f.nid, f.pos, explain(err))
}

// extent decompresses the next extent.
func (f *zFile) extent() error {
	head, end, blocks := f.head, f.size, 1
	i := f.next + 1
	for ; i < f.entries; i++ {
		e, err := f.entry(i)
		if err != nil {
			return err
		}
		if e.kind != entryInside {
			f.head, end = e, i<<f.image.bits|e.offset
			break
		}
		if i == f.next+1 && e.count > 0 {
			blocks = e.count
		}
	}
	at, length := int64(head.block)<<f.image.bits, blocks<<f.image.bits
	// Behind the last extent there may be one without bytes.
	if end == f.size && f.inline > 0 {
		at, length = f.after, f.inline
	}
	n := end - f.pos
	if n <= 0 || end > f.size || n > maxDecoded || length > MaxClusterSize {
		return fault.Errorf(fault.Source, "an extent of %d bytes in %d", n, length)
	}
	f.in = slices.Grow(f.in[:0], length)[:length]
	if _, err := f.image.r.ReadAt(f.in, at); err != nil {
		return err
	}
	f.out = slices.Grow(f.out[:0], int(n))[:n]
	if err := f.decompress(head.kind); err != nil {
		return err
	}
	f.rest, f.pos, f.next = f.out, end, i
	return nil
}

// decompress fills out from in.
func (f *zFile) decompress(kind byte) error {
	block := 1 << f.image.bits
	if kind == entryPlain {
		in := f.in
		if len(in) < len(f.out) {
			return fault.Errorf(fault.Source, "%d bytes are stored in %d", len(f.out), len(in))
		}
		n := 0
		if f.advise&adviseInterlaced != 0 {
			// Bytes are where they are in the file, as far as one block goes.
			first := min(block-int(f.pos)&(block-1), len(in))
			n = copy(f.out, in[len(in)-first:])
		}
		copy(f.out[n:], in)
		return nil
	}
	in := f.in
	if f.image.padding {
		in = bytes.TrimLeft(in[:min(block, len(in))], "\x00")
		in = f.in[min(block, len(f.in))-len(in):]
	}
	algorithm := f.algorithms[0]
	if kind != entryHead {
		algorithm = f.algorithms[1]
	}
	switch algorithm {
	case algorithmLZ4:
		return lz4Decompress(f.out, in)
	case algorithmDeflate:
		r := flate.NewReader(bytes.NewReader(in))
		_, err := io.ReadFull(r, f.out)
		return err
	case algorithmZstd:
		z, err := f.image.zstd()
		if err != nil {
			return err
		}
		out, err := z.DecodeAll(in, f.out[:0])
		if err == nil && len(out) < len(f.out) {
			err = fault.Errorf(fault.Source, "%d bytes where %d are expected", len(out), len(f.out))
		}
		if err != nil {
			return err
		}
		f.out = out[:len(f.out)]
		return nil
	}
	return notSupported("compression of kind %d, which is not supported", algorithm)
}
