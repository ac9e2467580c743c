package kernel

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"

	"github.com/sovereign-build/sovereign/internal/magic"
	"github.com/sovereign-build/sovereign/internal/unpack"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// decompressed returns what r holds in gzip, xz or zstd data, or r's own bytes
// where it is none of them.
func decompressed(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head, err := b.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if f := magic.Of(head); (f.Kind == magic.Compressed || f.Kind == magic.Other) && !bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")) {
		return nil, fault.Errorf(fault.Usage, "%s, which is not read", f.Name).
			Hintf("%s", cmp.Or(f.Advice, "decompress it first; gzip, xz and zstd are read as they are"))
	}
	// Its decoders hold nothing that a reader which stops early leaves behind.
	return unpack.New(b)
}
