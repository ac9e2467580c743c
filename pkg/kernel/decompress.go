package kernel

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/sovereign-build/sovereign/internal/decompress"
	"github.com/sovereign-build/sovereign/internal/magic"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// decompressed returns what r holds in gzip, xz or zstd data, or r's own bytes
// where it is none of them. Kernels come as xz, which nothing else here does.
func decompressed(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head, err := b.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch f := magic.Of(head); {
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		// xz -9 asks for 64 MiB.
		if size := xzDictionary(head); size > decompress.MaxWindow {
			return nil, fmt.Errorf("xz data with a dictionary of %d bytes, of which at most %d are allowed", size, decompress.MaxWindow)
		}
		return xz.NewReader(b)
	case f.Kind == magic.Compressed || f.Kind == magic.Other:
		return nil, fault.Errorf(fault.Usage, "%s, which is not read", f.Name).
			Hintf("%s", cmp.Or(f.Advice, "decompress it first; gzip, xz and zstd are read as they are"))
	}
	// Its decoders hold nothing that a reader which stops early leaves behind.
	return decompress.New(b)
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
