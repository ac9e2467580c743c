package verity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// superblock is what stands at the beginning of a file with a hash tree.
type superblock struct {
	Signature            [8]byte
	Version, HashType    uint32
	UUID                 [16]byte
	Algorithm            [32]byte
	DataBlock, HashBlock uint32
	DataBlocks           uint64
	SaltSize             uint16
	_                    [6]byte
	Salt                 [MaxSalt]byte
}

// Recompute computes the root hash of an image anew: of the data, and of no block
// of the tree, of which only the superblock is read. It is what Verify does for
// parts of a disk. dataSize bounds the data in bytes.
func Recompute(ctx context.Context, data io.ReaderAt, dataSize int64, tree io.ReaderAt) (RootHash, error) {
	var s superblock
	if err := binary.Read(io.NewSectionReader(tree, 0, 512), binary.LittleEndian, &s); err != nil {
		return RootHash{}, fmt.Errorf("verity: superblock: %w", err)
	}
	switch {
	case string(s.Signature[:]) != "verity\x00\x00" || s.Version != 1:
		return RootHash{}, fmt.Errorf("verity: there is no superblock")
	case s.HashType != 1 || string(bytes.TrimRight(s.Algorithm[:], "\x00")) != Algorithm || s.DataBlock != BlockSize || s.HashBlock != BlockSize:
		return RootHash{}, fmt.Errorf("verity: the tree is not of %s over blocks of %d bytes", Algorithm, BlockSize)
	case s.DataBlocks == 0 || s.DataBlocks > uint64(dataSize/BlockSize):
		return RootHash{}, fmt.Errorf("verity: %d blocks are not within the %d bytes of data", s.DataBlocks, dataSize)
	case s.SaltSize > MaxSalt:
		return RootHash{}, fmt.Errorf("verity: a salt of %d bytes", s.SaltSize)
	}
	salt := s.Salt[:s.SaltSize]
	level, err := hashes(ctx, io.NewSectionReader(data, 0, int64(s.DataBlocks)*BlockSize), salt)
	for err == nil && len(level) > sha256.Size {
		level, err = hashes(ctx, bytes.NewReader(level), salt)
	}
	if err != nil {
		return RootHash{}, err
	}
	return RootHash(level), nil
}

// hashes are those of a stream's blocks in a row; the last block is filled up
// with zeros.
func hashes(ctx context.Context, r io.Reader, salt []byte) ([]byte, error) {
	var out []byte
	piece := make([]byte, 256*BlockSize)
	h := sha256.New()
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		n, err := io.ReadFull(r, piece)
		clear(piece[n:])
		for at := 0; at < n; at += BlockSize {
			h.Reset()
			h.Write(salt)
			h.Write(piece[at : at+BlockSize])
			out = h.Sum(out)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("verity: %w", err)
		}
	}
}
