// Package verity sets up the root image's dm-verity device in the guest: in
// come the data and hash partitions and the root hash of the kernel command
// line, out goes a read-only device whose every block is checked when read.
//
// A wrong block stops the machine (panic_on_corruption): a server must not go
// on with half a root file system, and an I/O error would be one program's
// problem only. It never writes to either partition.
package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/dm"
)

// superblockSize is the size of the on-disk superblock in bytes, as in
// cryptsetup's lib/verity/verity.c.
const superblockSize = 512

// maxSalt is the largest salt the superblock holds, in bytes.
const maxSalt = 256

// Superblock is what the superblock of a hash partition says.
type Superblock struct {
	DataBlockSize uint32 // bytes, a power of two from 512 to 65536
	HashBlockSize uint32
	DataBlocks    uint64
	Salt          []byte // at most 256 bytes
}

// Parse reads a superblock. Only hash type 1 with SHA-256 is accepted: it is
// what the build writes.
func Parse(b []byte) (Superblock, error) {
	if len(b) < superblockSize {
		return Superblock{}, fmt.Errorf("verity superblock: %d bytes, want %d", len(b), superblockSize)
	}
	le := binary.LittleEndian
	if !bytes.Equal(b[:8], []byte("verity\x00\x00")) {
		return Superblock{}, fmt.Errorf("verity superblock: no signature: this is not a hash partition")
	}
	if v, h := le.Uint32(b[8:]), le.Uint32(b[12:]); v != 1 || h != 1 {
		return Superblock{}, fmt.Errorf("verity superblock: version %d, hash type %d: want 1 and 1", v, h)
	}
	if a := string(bytes.TrimRight(b[32:64], "\x00")); a != "sha256" {
		return Superblock{}, fmt.Errorf("verity superblock: algorithm %q: want sha256", a)
	}
	s := Superblock{DataBlockSize: le.Uint32(b[64:]), HashBlockSize: le.Uint32(b[68:]), DataBlocks: le.Uint64(b[72:])}
	for _, n := range []uint32{s.DataBlockSize, s.HashBlockSize} {
		if n < 512 || n > 65536 || n&(n-1) != 0 {
			return Superblock{}, fmt.Errorf("verity superblock: block size %d: want a power of two from 512 to 65536", n)
		}
	}
	if s.DataBlocks == 0 || s.DataBlocks > 1<<40 {
		return Superblock{}, fmt.Errorf("verity superblock: %d data blocks", s.DataBlocks)
	}
	salt := int(le.Uint16(b[80:]))
	if salt > maxSalt {
		return Superblock{}, fmt.Errorf("verity superblock: salt of %d bytes: want at most %d", salt, maxSalt)
	}
	s.Salt = bytes.Clone(b[88 : 88+salt])
	return s, nil
}

// hashStart is where the tree begins in the hash partition, in bytes: the
// block after the superblock's.
func (s Superblock) hashStart() int64 { return int64(s.HashBlockSize) }

// CheckRoot reads the top block of the hash tree and compares its digest with
// the root hash, so that a command line that does not belong to the disk is
// told plainly and not by a kernel panic at the first read.
func (s Superblock) CheckRoot(hashes io.ReaderAt, root []byte) error {
	if s.DataBlocks == 1 {
		return nil // the root hash is that of the data block
	}
	block := make([]byte, s.HashBlockSize)
	if _, err := hashes.ReadAt(block, s.hashStart()); err != nil {
		return fmt.Errorf("verity tree: %w", err)
	}
	h := sha256.New()
	h.Write(s.Salt)
	h.Write(block)
	if got := h.Sum(nil); !bytes.Equal(got, root) {
		return fmt.Errorf("root hash does not match: command line says %x, disk has %x: use the kernel command line and the root image of one bundle, unchanged", root, got)
	}
	return nil
}

// Open sets up the device NAME over the data and hash partitions and returns
// its node.
func Open(name, data, hashes string, root []byte) (string, error) {
	f, err := os.Open(hashes)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, superblockSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return "", fmt.Errorf("%s: %w", hashes, err)
	}
	s, err := Parse(b)
	if err != nil {
		return "", fmt.Errorf("%s: %w", hashes, err)
	}
	if err := s.CheckRoot(f, root); err != nil {
		return "", fmt.Errorf("%s: %w", hashes, err)
	}
	return dm.Create(name, dm.Target{
		Sectors: s.DataBlocks * uint64(s.DataBlockSize) / 512, Type: "verity", Params: s.params(data, hashes, root),
	}, true)
}

// params are those of the target: Documentation/admin-guide/device-mapper/verity.rst.
func (s Superblock) params(data, hashes string, root []byte) string {
	salt := "-"
	if len(s.Salt) > 0 {
		salt = hex.EncodeToString(s.Salt)
	}
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %x %s 1 panic_on_corruption", data, hashes,
		s.DataBlockSize, s.HashBlockSize, s.DataBlocks, s.hashStart()/int64(s.HashBlockSize), root, salt)
}
