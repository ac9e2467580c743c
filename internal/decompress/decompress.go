// Package decompress reads streams that may be compressed, by their first
// bytes, as people's archives and the layers of images are: their names and
// media types are often wrong about it.
package decompress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/internal/magic"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// MaxWindow is the largest zstd window that is read, and the most memory that
// reading takes, bytes: as zstd itself does without --long. What zstd -19 makes
// has 8 MiB.
const MaxWindow = 128 << 20

// UnsupportedError is a compression that is not understood.
type UnsupportedError struct{ magic.Format }

// Error implements error.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s, and its compression is not understood; gzip, zstd and none are", e.Name)
}

// New returns a reader of what r holds when it is decompressed, once: gzip,
// zstd, or r's own bytes. Errors are of class fault.Source, r's own apart: an
// *UnsupportedError for another compression, and whatever is wrong with the
// stream. Close does not close r.
func New(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch f := magic.Of(head); f.Kind {
	case magic.Gzip:
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, named("gzip", noEOF(err))
		}
		return reader{z, z.Close, "gzip"}, nil
	case magic.Zstd:
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MaxWindow))
		if err != nil {
			return nil, named("zstd", noEOF(err))
		}
		return reader{z, func() error { z.Close(); return nil }, "zstd"}, nil
	case magic.Compressed:
		return nil, fault.Wrap(fault.Source, &UnsupportedError{f})
	}
	return io.NopCloser(b), nil
}

// reader names the format in errors of the stream.
type reader struct {
	io.Reader
	close func() error
	name  string
}

// Close implements io.Closer.
func (r reader) Close() error { return r.close() }

// Read implements io.Reader.
func (r reader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	switch {
	case err == nil, err == io.EOF:
		return n, err
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return n, fault.Errorf(fault.Source, "zstd: a window of more than %d MiB (zstd --long)", MaxWindow>>20).
			Hintf("decompress it with zstd -dc --long=31")
	}
	return n, named(r.name, err)
}

// named gives an error of a stream its format, unless the library has, and
// keeps the class of what went wrong below, if it has one.
func named(format string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if !strings.HasPrefix(err.Error(), format+": ") {
		err = fmt.Errorf("%s: %w", format, err)
	}
	return fault.Wrap(fault.Source, err)
}

// noEOF keeps the end of a stream inside its header from looking like its end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
