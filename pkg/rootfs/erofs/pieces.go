package erofs

import (
	"context"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/blocks"
)

const (
	// pieceSize is what is compressed at once, bytes. An extent ends where a
	// piece does, so that pieces do not depend on each other; the kernel
	// takes extents of up to 12 MiB (Z_EROFS_PCLUSTER_MAX_DSIZE).
	pieceSize = 2 << 20
	// minCompressed is the smallest file that is compressed. The index has 16
	// bytes and more.
	minCompressed = 128
)

// maxCompressed is the largest file that is compressed; tests have a smaller
// limit. Larger ones are most often images of disks, which are mostly holes:
// those take no room in an image that is not compressed.
var maxCompressed int64 = 4 << 30

// piece is a part of a file, compressed in its batch.
type piece struct {
	file    *pieceFile
	end     int // in the batch's data
	first   bool
	last    bool
	out     int // end of its blocks in the batch's
	inline  int // and of what is to be with the inode, behind those
	extents []extent
}

// pieceFile is a file of which there are pieces.
type pieceFile struct {
	node int32
	// plain is set once it is known that the file is stored as it is: pieces
	// that are still to come need not be compressed.
	plain atomic.Bool
}

// batch is what a goroutine compresses at a time: a piece of a large file, or
// many small files.
type batch struct {
	data   []byte // at most pieceSize
	blocks []byte
	pieces []piece
	done   chan error // has one value when the batch is compressed
}

// compressing says whether an inode has contents that go through batches.
func (n *node) compressing() bool {
	return n.kind == direntFile && n.size > 0 && n.size <= maxCompressed
}

// batches reads the files and compresses them. It calls each with the batches
// in the order of the nodes.
func (w *writer) batches(c Compression, each func(*batch) error) error {
	workers := runtime.GOMAXPROCS(0)
	group, ctx := errgroup.WithContext(w.ctx)
	idle := make(chan *batch, workers+2)
	todo, inOrder := make(chan *batch, workers+2), make(chan *batch, workers+2)
	for range cap(idle) {
		idle <- &batch{done: make(chan error, 1)}
	}
	group.Go(func() error {
		defer close(todo)
		defer close(inOrder)
		r := batchReader{ctx: ctx, idle: idle, send: func(b *batch) error {
			// Neither blocks: there are no more batches than room for them.
			todo <- b
			inOrder <- b
			return nil
		}}
		return r.all(w.p)
	})
	for range workers {
		group.Go(func() error {
			z, err := c.compressor()
			if err != nil {
				return err
			}
			p := &packer{compressor: z, limit: c.ClusterSize}
			for b := range todo {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				b.done <- b.compress(p)
			}
			return nil
		})
	}
	group.Go(func() error {
		for b := range inOrder {
			select {
			case err := <-b.done:
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := each(b); err != nil {
				return err
			}
			idle <- b
		}
		return nil
	})
	return group.Wait()
}

// compress compresses the pieces of a batch.
func (b *batch) compress(z *packer) error {
	at := 0
	b.blocks = b.blocks[:0]
	for i := range b.pieces {
		p := &b.pieces[i]
		data := b.data[at:p.end]
		at = p.end
		var inline []byte
		if tiny := p.first && len(data) < minCompressed; !tiny && !p.file.plain.Load() {
			var err error
			if b.blocks, p.extents, inline, err = z.piece(data, b.blocks, p.last); err != nil {
				return err
			}
		}
		p.out = len(b.blocks)
		b.blocks = append(b.blocks, inline...)
		p.inline = len(b.blocks)
	}
	return nil
}

// batchReader fills batches with the contents of files.
type batchReader struct {
	ctx  context.Context
	in   blocks.Reader
	idle <-chan *batch
	send func(*batch) error
	cur  *batch
}

func (r *batchReader) all(p *plan) error {
	for i := range p.nodes {
		if n := &p.nodes[i]; n.compressing() {
			e, _ := p.tree.Lookup(n.path)
			if err := r.file(int32(i), e); err != nil {
				return err
			}
		}
	}
	return r.flush()
}

// file adds a file's contents.
func (r *batchReader) file(i int32, e rootfs.Entry) error {
	f := &pieceFile{node: i}
	at := int64(0)
	err := r.in.Read(r.ctx, e, func(block uint64, data []byte) error {
		from := int64(block) * BlockSize
		if err := r.add(f, e.Size, &at, nil, from-at); err != nil {
			return err
		}
		return r.add(f, e.Size, &at, data, min(int64(len(data)), e.Size-from))
	})
	if err != nil {
		return err
	}
	return r.add(f, e.Size, &at, nil, e.Size-at)
}

// add adds n bytes of a file that has size bytes, zeros where data is nil.
func (r *batchReader) add(f *pieceFile, size int64, at *int64, data []byte, n int64) error {
	for n > 0 {
		begin := *at%pieceSize == 0
		if begin && r.cur != nil && int64(len(r.cur.data))+min(pieceSize, size-*at) > pieceSize {
			if err := r.flush(); err != nil {
				return err
			}
		}
		if r.cur == nil {
			if err := r.take(); err != nil {
				return err
			}
		}
		b := r.cur
		k := min(n, pieceSize-*at%pieceSize)
		if data != nil {
			b.data = append(b.data, data[:k]...)
			data = data[k:]
		} else {
			b.data = b.data[:len(b.data)+int(k)]
			clear(b.data[len(b.data)-int(k):])
		}
		n -= k
		if *at += k; *at%pieceSize == 0 || *at == size {
			b.pieces = append(b.pieces, piece{file: f, end: len(b.data), first: *at <= pieceSize, last: *at == size})
		}
	}
	return nil
}

// take begins a batch.
func (r *batchReader) take() error {
	select {
	case r.cur = <-r.idle:
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
	if r.cur.data == nil {
		r.cur.data = make([]byte, 0, pieceSize)
	}
	r.cur.data, r.cur.pieces = r.cur.data[:0], r.cur.pieces[:0]
	return nil
}

// flush has what there is compressed.
func (r *batchReader) flush() error {
	if r.cur == nil {
		return nil
	}
	b := r.cur
	r.cur = nil
	return r.send(b)
}
