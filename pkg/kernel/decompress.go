package kernel

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxWindow is the most that a compressed file may ask a decompressor to keep
// of what came out: the limit of the zstd program. xz -9 asks for 64 MiB.
const maxWindow = 128 << 20

// The longest magic, and the xz headers up to the size of the dictionary.
const peeked = 64

// decompress returns what r holds in gzip, xz or zstd data, or r itself where it
// is none of them.
func decompress(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head, err := b.Peek(peeked)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return gzip.NewReader(b)
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		if size := xzDictionary(head); size > maxWindow {
			return nil, fmt.Errorf("xz data with a dictionary of %d bytes, of which at most %d are allowed", size, maxWindow)
		}
		return xz.NewReader(b)
	case isZstd(head):
		// One decoder leaves no goroutine behind where the reader stops early.
		return zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	}
	for _, other := range []struct{ magic, name string }{
		{"BZh", "bzip2"}, {"PK\x03\x04", "zip"}, {"\x04\x22\x4d\x18", "lz4"}, {"7z\xbc\xaf\x27\x1c", "7-Zip"}, {"LZIP", "lzip"}, {"\x89LZO\x00", "lzop"},
	} {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return nil, fault.Errorf(fault.Usage, "%s data, which is not read", other.name).
				Hintf("decompress it first; gzip, xz and zstd are read as they are")
		}
	}
	return b, nil
}

// isZstd says whether data begins with a frame of zstd, or with a skippable one,
// which pzstd puts before the data (RFC 8878, 3.1.2).
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")) ||
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte("\x2a\x4d\x18"))
}

// xzDictionary is the size of the dictionary that the first block of xz data
// asks for, 0 where it is not to be seen. The decompressor makes one of that
// size, up to 4 GiB, before it looks at the data.
//
// After the stream header of 12 bytes come the size of the block header, flags
// with the number of filters, and the filters; LZMA2 is 0x21 with one byte.
func xzDictionary(head []byte) int64 {
	const header = 12
	if len(head) < header+2 {
		return 0
	}
	flags, rest := head[header+1], head[header+2:]
	for _, size := range []byte{0x40, 0x80} { // of the block packed and unpacked
		if flags&size == 0 {
			continue
		}
		n := bytes.IndexFunc(rest, func(c rune) bool { return c < 0x80 })
		if n < 0 {
			return 0
		}
		rest = rest[n+1:]
	}
	if len(rest) < 3 || rest[0] != 0x21 || rest[1] != 1 {
		return 0
	}
	size, err := lzma.DecodeDictCap(rest[2])
	if err != nil {
		return 0
	}
	return size
}
