package erofs

import (
	"encoding/binary"
	"slices"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Compression says how files are compressed.
type Compression struct {
	// Algorithm is "zstd" or "lz4"; the empty one is none. Linux reads zstd
	// from 6.10 on, with CONFIG_EROFS_FS_ZIP_ZSTD, and lz4 from 5.17 on, with
	// CONFIG_EROFS_FS_ZIP.
	Algorithm string
	// Level is how much time is spent: 1, the fastest, to 4, the smallest
	// image; 0 is 2. How fast an image is read does not depend on it.
	Level int
	// ClusterSize is the most that is compressed into one piece, and so has
	// to be read and decompressed for any byte in it: bytes of the image, a
	// multiple of BlockSize up to 1 MiB; 0 is 64 KiB. Larger ones make the
	// image smaller.
	ClusterSize int
}

const (
	// MaxLevel of compression.
	MaxLevel = 4
	// MaxClusterSize is the kernel's Z_EROFS_PCLUSTER_MAX_SIZE, bytes.
	MaxClusterSize = 1 << 20

	defaultLevel   = 2
	defaultCluster = 64 << 10
)

// Algorithms of the format. Deflate is only read.
const (
	algorithmLZ4     = 0
	algorithmDeflate = 2
	algorithmZstd    = 3
)

var algorithms = map[string]byte{"lz4": algorithmLZ4, "zstd": algorithmZstd}

// Algorithms lists those of Compression.
func Algorithms() []string { return []string{"zstd", "lz4"} }

// withDefaults checks c, and gives it what it leaves open.
func (c Compression) withDefaults() (Compression, error) {
	if c.Algorithm == "" {
		if c != (Compression{}) {
			return c, fault.Errorf(fault.Usage, "level and cluster size are for compression, and there is no algorithm").Hintf("use zstd or lz4")
		}
		return c, nil
	}
	if !slices.Contains(Algorithms(), c.Algorithm) {
		return c, fault.Errorf(fault.Usage, "compression %q is not known", c.Algorithm).Hintf("use zstd or lz4")
	}
	if c.Level == 0 {
		c.Level = defaultLevel
	}
	if c.Level < 1 || c.Level > MaxLevel {
		return c, fault.Errorf(fault.Usage, "compression level %d is not from 1 to %d", c.Level, MaxLevel)
	}
	if c.ClusterSize == 0 {
		c.ClusterSize = defaultCluster
	}
	if c.ClusterSize < BlockSize || c.ClusterSize > MaxClusterSize || c.ClusterSize%BlockSize != 0 {
		return c, fault.Errorf(fault.Usage, "cluster size %d is not a multiple of %d up to %d bytes", c.ClusterSize, BlockSize, MaxClusterSize)
	}
	return c, nil
}

// describe puts what a reader has to know into the superblock.
func (c Compression) describe(sb []byte) {
	if c.Algorithm == "" {
		return
	}
	le := binary.LittleEndian
	le.PutUint32(sb[superIncompat:], incompatPadding|incompatClusters|incompatInline)
	le.PutUint16(sb[superAlgorithms:], 1<<algorithms[c.Algorithm])
	config := sb[superSize:]
	if c.Algorithm == "lz4" {
		le.PutUint16(config, 14)
		le.PutUint16(config[2:], lz4Distance)
		le.PutUint16(config[4:], uint16(c.ClusterSize/BlockSize))
		return
	}
	le.PutUint16(config, 6)
	config[3] = byte(zstdWindowLog(c.ClusterSize) - 10)
}

// compressor compresses one piece after the other.
type compressor interface {
	// begin begins a piece, which must not change until the next one.
	begin(src []byte) error
	// next compresses what begins at start and ends where limit bytes are
	// full, and says how much that is. out is valid until the next call.
	next(start, limit int) (out []byte, taken int, err error)
}

func (c Compression) compressor() (compressor, error) {
	if c.Algorithm == "lz4" {
		return newLZ4(c.Level, c.ClusterSize), nil
	}
	return newZstd(c.Level, c.ClusterSize)
}

const (
	// maxInline is what may be with an inode, bytes: a block, without what
	// else belongs to an inode of the usual size.
	maxInline = BlockSize - 256
	// splitGain is what a block less has to save for the end of a file to
	// be an extent of its own, bytes.
	splitGain = BlockSize / 4
)

// packer makes extents of pieces.
type packer struct {
	compressor
	limit int
	// of the end of a file, as long as it is not known where that goes
	whole, head []byte
}

// piece appends the blocks of a part of a file to out and returns its extents,
// whose block numbers count from there, and the data of the last extent if
// that is to be with the inode; last says that this is the end of the file.
// What does not become smaller is stored as it is, block by block.
func (p *packer) piece(data, out []byte, last bool) (_ []byte, extents []extent, inline []byte, err error) {
	if err := p.begin(data); err != nil {
		return nil, nil, nil, err
	}
	first := len(out)
	for at := 0; at < len(data); {
		b, n, err := p.next(at, p.limit)
		if err != nil {
			return nil, nil, nil, err
		}
		if last && at+n == len(data) {
			if b, n, inline, err = p.finish(data, at, b); err != nil {
				return nil, nil, nil, err
			}
			if n == 0 {
				return out, append(extents, extent{size: int64(len(data) - at)}), inline, nil
			}
		}
		e := extent{size: int64(n), block: uint32((len(out) - first) / BlockSize), blocks: blocksOf(len(b))}
		if e.blocks >= blocksOf(n) || n < BlockSize && at+n < len(data) {
			// Where one extent is stored as it is, the rest of its data is
			// likely to be. The first ends with a block of the file: the kernel
			// takes no such extent that has parts of two.
			inline = nil
			for end := min(at+max(n, BlockSize), len(data)); at < end; at += int(e.size) {
				e = extent{size: int64(min(BlockSize-at%BlockSize, len(data)-at)), block: uint32((len(out) - first) / BlockSize), blocks: 1, plain: true}
				out = append(out, data[at:at+int(e.size)]...)
				out = append(out, make([]byte, BlockSize-e.size)...)
				extents = append(extents, e)
			}
			continue
		}
		out = appendCluster(out, b)
		extents = append(extents, e)
		if at += n; inline != nil {
			return out, append(extents, extent{size: int64(len(data) - at)}), inline, nil
		}
	}
	return out, extents, nil, nil
}

// finish decides how a file ends, of which all from at on was compressed to b.
// It may be with the inode: no bytes of what is returned as n are in blocks
// then. Or a part of it may be, so that no block is there for a few bytes: then
// b is less than it was.
func (p *packer) finish(data []byte, at int, b []byte) (_ []byte, n int, inline []byte, err error) {
	n = len(data) - at
	if len(b) <= maxInline && len(b) < n {
		return nil, 0, b, nil
	}
	over := len(b) % BlockSize
	if over == 0 || over > BlockSize-splitGain || len(b) < BlockSize || blocksOf(len(b)) > blocksOf(n) {
		return b, n, nil, nil
	}
	p.whole = append(p.whole[:0], b...)
	b, head, err := p.next(at, len(b)-over)
	if err != nil || head < BlockSize || head >= n {
		return p.whole, n, nil, err
	}
	p.head = append(p.head[:0], b...)
	end, rest, err := p.next(at+head, maxInline)
	if err != nil || rest < n-head || len(end) > over+splitGain || len(end) >= rest {
		return p.whole, n, nil, err
	}
	return p.head, head, end, nil
}

// appendCluster appends compressed data as blocks. It ends with the last of
// them; before it are zeros.
func appendCluster(out, b []byte) []byte {
	return append(append(out, make([]byte, -len(b)&(BlockSize-1))...), b...)
}

func blocksOf(n int) int { return (n + BlockSize - 1) / BlockSize }
