package sparse

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// Sum is a digest of the first size bytes of r, the same wherever the holes
// are: SHA-256 over the size and over each block that is not zero, with its
// offset.
func Sum(ctx context.Context, r io.ReaderAt, size int64) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	number := func(n int64) { h.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	number(size)
	buf := make([]byte, 256*Block)
	for e, err := range Extents(r, size) {
		if err != nil {
			return sum, err
		}
		for at := e.Offset; at < e.Offset+e.Size; at += int64(len(buf)) {
			if err := ctx.Err(); err != nil {
				return sum, err
			}
			b := buf[:min(int64(len(buf)), e.Offset+e.Size-at)]
			if _, err := io.ReadFull(io.NewSectionReader(r, at, int64(len(b))), b); err != nil {
				return sum, fmt.Errorf("at byte %d: %w", at, err)
			}
			for i := 0; i < len(b); i += Block {
				if block := b[i:min(i+Block, len(b))]; !IsZero(block) {
					number(at + int64(i))
					h.Write(block)
				}
			}
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
