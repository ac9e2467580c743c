package erofs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/blocks"
)

// writer writes a plan: full blocks of contents and inodes at once, both from
// their beginning to their end.
type writer struct {
	ctx    context.Context
	epoch  int64
	p      *plan
	f      File
	in     blocks.Reader
	out    blocks.Writer
	digest hash.Hash // of the blocks that are not zeros, with their numbers
	// inodes that are not yet written, from byte metaAt of their part on
	meta   []byte
	metaAt int64
}

func newWriter(ctx context.Context, f File, p *plan, epoch int64) *writer {
	return &writer{ctx: ctx, epoch: epoch, p: p, f: f, out: blocks.Writer{W: f}, digest: sha256.New()}
}

func (w *writer) write() error {
	if err := w.p.place(); err != nil {
		return err
	}
	if err := w.f.Truncate(int64(w.p.blocks) * BlockSize); err != nil {
		return err
	}
	for i := range w.p.nodes {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.node(int32(i)); err != nil {
			return err
		}
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	return w.flushMeta()
}

// node writes one inode and its contents.
func (w *writer) node(i int32) error {
	e, _ := w.p.tree.Lookup(w.p.nodes[i].path)
	tail, err := w.contents(i, e)
	if err != nil {
		return err
	}
	return w.inode(i, e, tail)
}

// contents writes what of an inode's contents is in blocks of its own, and
// returns the rest.
func (w *writer) contents(i int32, e rootfs.Entry) (tail []byte, err error) {
	n := &w.p.nodes[i]
	tail = make([]byte, n.tail())
	full := uint64(n.fullBlocks())
	put := func(block uint64, data []byte) error {
		if rest := int(full-min(block, full)) * BlockSize; rest < len(data) {
			copy(tail, data[rest:])
			data = data[:rest]
		}
		if len(data) == 0 {
			return nil
		}
		return w.put(uint64(n.data)+block, data)
	}
	switch {
	case e.IsRegular():
		err = w.in.Read(w.ctx, e, put)
	case e.IsDir():
		err = w.pieces(w.p.encodeDir(w.p.names(i)), put)
	case e.IsSymlink():
		b := make([]byte, BlockSize)
		copy(b, e.Link)
		err = put(0, b)
	}
	return tail, err
}

// inode writes an inode, its attributes and what is behind them.
func (w *writer) inode(i int32, e rootfs.Entry, behind []byte) error {
	n := &w.p.nodes[i]
	xattrs, err := encodeXattrs(e)
	if err != nil {
		return err
	}
	w.meta = append(w.meta, make([]byte, n.at-w.metaAt-int64(len(w.meta)))...)
	w.meta = append(w.meta, n.encodeInode(e, w.epoch, uint32(i+1))...)
	w.meta = append(append(w.meta, xattrs...), behind...)
	if len(w.meta) > blocks.Chunk {
		return w.flushMeta()
	}
	return nil
}

// pieces hands out whole blocks in pieces of blocks.Chunk.
func (w *writer) pieces(b []byte, put func(uint64, []byte) error) error {
	for block := uint64(0); len(b) > 0; block += blocks.Chunk / BlockSize {
		n := min(len(b), blocks.Chunk)
		if err := put(block, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (w *writer) put(block uint64, data []byte) error {
	for i := 0; i < len(data); i += BlockSize {
		w.sum(block+uint64(i/BlockSize), data[i:i+BlockSize])
	}
	return w.out.Put(block, data)
}

// sum takes a part of the image into the digest.
func (w *writer) sum(at uint64, data []byte) {
	var nr [8]byte
	binary.LittleEndian.PutUint64(nr[:], at)
	w.digest.Write(nr[:])
	w.digest.Write(data)
}

func (w *writer) flushMeta() error {
	w.digest.Write(w.meta)
	_, err := w.f.WriteAt(w.meta, int64(w.p.meta)*BlockSize+w.metaAt)
	w.metaAt += int64(len(w.meta))
	w.meta = w.meta[:0]
	return err
}

// contentUUID is a UUID of version 8 (RFC 9562) from all that was written and
// the superblock without it.
func (w *writer) contentUUID(sb []byte) (id [16]byte) {
	w.digest.Write(sb)
	copy(id[:], w.digest.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
