// Package verity computes the dm-verity hash tree of an image.
//
// The path of a finished image comes in; a file with the superblock and the
// hash tree, and the root hash, go out: what `veritysetup format` writes for
// the same salt and UUID, byte for byte. The package opens no device; the
// guest does that.
package verity

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"

	goverity "github.com/containerd/go-dmverity/pkg/verity"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
)

const (
	// BlockSize of data and hashes, bytes.
	BlockSize = 4096
	// HashOffset is where the hash tree begins in the hash file: the
	// superblock takes the block before it.
	HashOffset = 4096
	// Algorithm of the hashes.
	Algorithm = "sha256"
	// MaxSalt is the longest salt, bytes.
	MaxSalt = 256
)

// RootHash is the hash the whole image is verified by.
type RootHash [32]byte

// String is the hash in lower case hex, as the kernel command line and
// veritysetup take it.
func (h RootHash) String() string { return hex.EncodeToString(h[:]) }

// ParseRootHash reads 64 hex digits.
func ParseRootHash(s string) (RootHash, error) {
	var h RootHash
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("root hash %q is not 64 hex digits", s)
	}
	return RootHash(b), nil
}

// PartitionGUIDs are the GUIDs by which the Discoverable Partitions
// Specification ties partitions to the hash: its first 128 bits for the data,
// its last for the hash tree.
func (h RootHash) PartitionGUIDs() (data, hash [16]byte) {
	return [16]byte(h[:16]), [16]byte(h[16:])
}

// Options of a hash tree.
type Options struct {
	// Salt goes before every block that is hashed; 1 to MaxSalt bytes. It has
	// to be the same for the same image, or nothing would be reproducible.
	Salt []byte
	// UUID in the superblock.
	UUID [16]byte
}

// Info describes a hash tree.
type Info struct {
	Root       RootHash
	DataBlocks uint64 // of BlockSize
	Size       int64  // of the hash file, bytes, superblock included
	Salt       []byte
}

// Format writes the hash tree of the image at dataPath to hashPath, by a
// temporary file beside it. The image's size must be a multiple of BlockSize
// and not zero.
func Format(ctx context.Context, dataPath, hashPath string, o Options) (_ Info, err error) {
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	st, err := os.Stat(dataPath)
	if err != nil {
		return Info{}, fmt.Errorf("verity: %w", err)
	}
	if st.Size() == 0 || st.Size()%BlockSize != 0 {
		return Info{}, fmt.Errorf("verity: %s has %d bytes, not a multiple of %d", dataPath, st.Size(), BlockSize)
	}
	if len(o.Salt) == 0 || len(o.Salt) > MaxSalt {
		return Info{}, fmt.Errorf("verity: salt of %d bytes, not 1 to %d", len(o.Salt), MaxSalt)
	}
	tree, err := atomicfile.Create(hashPath, 0o644)
	if err != nil {
		return Info{}, fmt.Errorf("verity: %w", err)
	}
	defer tree.Abort()
	p := goverity.DefaultParams()
	p.HashName, p.HashType = Algorithm, 1
	p.DataBlockSize, p.HashBlockSize = BlockSize, BlockSize
	p.DataBlocks = uint64(st.Size() / BlockSize)
	p.Salt, p.SaltSize = o.Salt, uint16(len(o.Salt))
	p.HashAreaOffset = HashOffset
	p.UUID = o.UUID
	root, err := goverity.Create(&p, dataPath, tree.Name())
	if err != nil {
		return Info{}, fmt.Errorf("verity: %s: %w", dataPath, err)
	}
	if len(root) != len(RootHash{}) {
		return Info{}, fmt.Errorf("verity: %s: root hash of %d bytes", dataPath, len(root))
	}
	size, err := goverity.GetHashTreeSize(&p)
	if err != nil {
		return Info{}, fmt.Errorf("verity: %s: %w", dataPath, err)
	}
	info := Info{Root: RootHash(root), DataBlocks: p.DataBlocks, Size: HashOffset + int64(size), Salt: o.Salt}
	// A tree of one data block has no hash blocks.
	if err := tree.Truncate(info.Size); err != nil {
		return Info{}, fmt.Errorf("verity: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	if err := tree.Commit(); err != nil {
		return Info{}, fmt.Errorf("verity: %w", err)
	}
	return info, nil
}

// Verify checks the image against its hash file and a root hash.
func Verify(dataPath, hashPath string, root RootHash) error {
	p := goverity.DefaultParams()
	p.HashAreaOffset = HashOffset
	if err := goverity.Verify(&p, dataPath, hashPath, root[:]); err != nil {
		return fmt.Errorf("verity: %s: %w", dataPath, err)
	}
	return nil
}
