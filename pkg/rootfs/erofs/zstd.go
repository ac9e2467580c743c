package erofs

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

const (
	// zstdMargin is how far from a block's end the first part of an extent is
	// to come out: what follows fills the blocks in small steps.
	zstdMargin = 6 << 10
	// zstdRest is what is not filled any more, bytes.
	zstdRest = 192
	// zstdEnd is the empty block that ends a frame.
	zstdEnd = 3
	// zstdSteps bounds the parts of an extent.
	zstdSteps = 12
	// ratioUnit is what a ratio counts in, so that it is an integer, the same
	// on every machine.
	ratioUnit = 256
)

var zstdLevels = [...]zstd.EncoderLevel{1: zstd.SpeedFastest, 2: zstd.SpeedDefault, 3: zstd.SpeedBetterCompression, 4: zstd.SpeedBestCompression}

// zstdCompressor fills blocks with one zstd frame each. The encoder cannot say
// how much input fits, so it gets the input in parts: one that is expected to
// fill most of the room, then what is expected to fill the last block that was
// begun. Nothing is compressed twice unless the guess was too high.
type zstdCompressor struct {
	enc   *zstd.Encoder
	out   bytes.Buffer
	src   []byte
	ratio int // input for output, of the extent before
	ends  []int
}

func newZstd(level, limit int) (*zstdCompressor, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstdLevels[level]), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<zstdWindowLog(limit)), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &zstdCompressor{enc: enc}, nil
}

// zstdWindowLog is the window of an image: eight clusters, at most what the
// kernel takes (Z_EROFS_ZSTD_MAX_DICT_SIZE).
func zstdWindowLog(limit int) int {
	log := 10
	for 1<<(log+1) <= min(8*limit, MaxClusterSize) {
		log++
	}
	return log
}

// begin implements compressor.
func (c *zstdCompressor) begin(src []byte) error {
	c.src, c.ratio = src, 5*ratioUnit/2
	return nil
}

// next implements compressor.
func (c *zstdCompressor) next(start, limit int) (out []byte, taken int, err error) {
	src := c.src[start:]
	target := max(limit-zstdMargin, limit*7/8)
	first := target * c.ratio / ratioUnit
	for {
		first = min(max(first, BlockSize), len(src))
		if err := c.parts(src, first); err != nil {
			return nil, 0, err
		}
		if c.out.Len()+zstdEnd <= limit || first <= BlockSize {
			break
		}
		// As much less as that was too much.
		first = first * target / c.out.Len() * 15 / 16
	}
	for len(c.ends) < zstdSteps {
		at, used := c.ends[len(c.ends)-1], c.out.Len()+zstdEnd
		room := max(-used&(BlockSize-1), target-used)
		if at == len(src) || room < zstdRest || used > limit {
			break
		}
		if err := c.part(src, min(at+room*at/used*7/8, len(src))); err != nil {
			return nil, 0, err
		}
		if c.out.Len()+zstdEnd > limit {
			if err := c.parts(src, c.ends[:len(c.ends)-1]...); err != nil {
				return nil, 0, err
			}
			break
		}
	}
	if err := c.enc.Close(); err != nil {
		return nil, 0, fmt.Errorf("zstd: %w", err)
	}
	taken = c.ends[len(c.ends)-1]
	c.ratio = max(taken*ratioUnit/c.out.Len(), ratioUnit)
	return c.out.Bytes(), taken, nil
}

// parts begins a frame with parts that have these ends.
func (c *zstdCompressor) parts(src []byte, ends ...int) error {
	c.out.Reset()
	c.enc.Reset(&c.out)
	c.ends = c.ends[:0]
	for _, end := range ends {
		if err := c.part(src, end); err != nil {
			return err
		}
	}
	return nil
}

// part compresses up to an end.
func (c *zstdCompressor) part(src []byte, end int) error {
	from := 0
	if n := len(c.ends); n > 0 {
		from = c.ends[n-1]
	}
	_, err := c.enc.Write(src[from:end])
	if err == nil {
		err = c.enc.Flush()
	}
	if err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	c.ends = append(c.ends, end)
	return nil
}
