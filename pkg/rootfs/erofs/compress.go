package erofs

import (
	"encoding/binary"
	"slices"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Compression says how files are compressed.
type Compression struct {
	// Algorithm is "zstd" or "lz4"; the empty one is none. Linux reads zstd
	// from 6.10 on, with CONFIG_EROFS_FS_ZIP_ZSTD, and lz4 from 5.13 on, with
	// CONFIG_EROFS_FS_ZIP.
	Algorithm string
	// Level is how much time is spent: 1, the fastest, to 4, the smallest
	// image; 0 is 3. How fast an image is read does not depend on it.
	Level int
	// ClusterSize is the most that is compressed into one piece, and so has
	// to be read and decompressed for any byte in it: bytes of the image, a
	// multiple of BlockSize up to 1 MiB; 0 is 64 KiB. Larger ones make the
	// image smaller.
	ClusterSize int
}

const (
	defaultLevel   = 3
	maxLevel       = 4
	defaultCluster = 64 << 10
	// maxCluster is the kernel's Z_EROFS_PCLUSTER_MAX_SIZE.
	maxCluster = 1 << 20
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
	if c.Level < 1 || c.Level > maxLevel {
		return c, fault.Errorf(fault.Usage, "compression level %d is not from 1 to %d", c.Level, maxLevel)
	}
	if c.ClusterSize == 0 {
		c.ClusterSize = defaultCluster
	}
	if c.ClusterSize < BlockSize || c.ClusterSize > maxCluster || c.ClusterSize%BlockSize != 0 {
		return c, fault.Errorf(fault.Usage, "cluster size %d is not a multiple of %d up to %d bytes", c.ClusterSize, BlockSize, maxCluster)
	}
	return c, nil
}

// describe puts what a reader has to know into the superblock.
func (c Compression) describe(sb []byte) {
	if c.Algorithm == "" {
		return
	}
	le := binary.LittleEndian
	le.PutUint32(sb[superIncompat:], incompatPadding|incompatClusters)
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
	// next compresses what begins at start and ends where the cluster is
	// full, and says how much that is. out is valid until the next call.
	next(start int) (out []byte, taken int, err error)
}

func (c Compression) compressor() (compressor, error) {
	if c.Algorithm == "lz4" {
		return newLZ4(c.Level, c.ClusterSize), nil
	}
	return newZstd(c.Level, c.ClusterSize)
}

// compressPiece appends the blocks of a part of a file to out and returns its
// extents, whose block numbers count from there. What does not become smaller
// is stored as it is, block by block.
func compressPiece(c compressor, data, out []byte) (_ []byte, extents []extent, err error) {
	if err := c.begin(data); err != nil {
		return nil, nil, err
	}
	first := len(out)
	for at := 0; at < len(data); {
		b, n, err := c.next(at)
		if err != nil {
			return nil, nil, err
		}
		blocks := blocksOf(len(b))
		e := extent{size: int64(n), block: uint32((len(out) - first) / BlockSize), blocks: blocks}
		if blocks >= blocksOf(n) || n < BlockSize && at+n < len(data) {
			// Where one extent is stored as it is, the rest of its data is
			// likely to be. The first ends with a block of the file: the kernel
			// takes no such extent that has parts of two.
			for end := min(at+max(n, BlockSize), len(data)); at < end; at += int(e.size) {
				e = extent{size: int64(min(BlockSize-at%BlockSize, len(data)-at)), block: uint32((len(out) - first) / BlockSize), blocks: 1, plain: true}
				out = append(out, data[at:at+int(e.size)]...)
				out = append(out, make([]byte, BlockSize-e.size)...)
				extents = append(extents, e)
			}
			continue
		}
		// The data ends with its last block: before it are zeros.
		out = append(append(out, make([]byte, -len(b)&(BlockSize-1))...), b...)
		extents = append(extents, e)
		at += n
	}
	return out, extents, nil
}

func blocksOf(n int) int { return (n + BlockSize - 1) / BlockSize }
