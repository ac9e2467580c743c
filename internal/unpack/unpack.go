// Package unpack decompresses what upstream's archives come in: what package
// decompress reads, and xz and bzip2 beside it.
//
// Decoders of these two that are written in Go take several times as long as the
// programs of the same names, so [File] uses a program where the machine has it.
package unpack

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/sovereign-build/sovereign/internal/decompress"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// marks are the first bytes of what is read beside decompress, by the program.
var marks = map[string]string{"xz": "\xfd7zXZ\x00", "bzip2": "BZh"}

func formatOf(head []byte) string {
	for program, mark := range marks {
		if bytes.HasPrefix(head, []byte(mark)) {
			return program
		}
	}
	return ""
}

// New returns what r holds when it is decompressed, or r's own bytes, with
// decoders of this process. Errors are of class fault.Source, r's own apart.
func New(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head, err := b.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch formatOf(head) {
	case "xz":
		// xz -9 asks for 64 MiB.
		if size := xzDictionary(head); size > decompress.MaxWindow {
			return nil, fault.Errorf(fault.Source, "xz data with a dictionary of %d bytes, of which at most %d are allowed", size, decompress.MaxWindow)
		}
		x, err := xz.NewReader(b)
		if err != nil {
			return nil, fault.Errorf(fault.Source, "xz: %w", err)
		}
		return io.NopCloser(x), nil
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(b)), nil
	}
	return decompress.New(b)
}

// File is New for a file, from its beginning, with the machine's programs where
// there are any. Close ends the program, and does not close f.
func File(ctx context.Context, f *os.File) (io.ReadCloser, error) {
	head := make([]byte, 6)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if program := formatOf(head[:n]); program != "" {
		if path, err := exec.LookPath(program); err == nil {
			return start(ctx, path, program, f)
		}
	}
	return New(f)
}

// running is a program whose output is read.
type running struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	out    io.Reader
	said   *strings.Builder
	name   string
	ended  bool
	err    error
}

func start(ctx context.Context, path, name string, f *os.File) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel: cancel, said: new(strings.Builder), name: name}
	// A section has an offset of its own, whoever else reads f.
	info, err := f.Stat()
	if err != nil {
		cancel()
		return nil, fault.Wrap(fault.Environment, err)
	}
	r.cmd = exec.CommandContext(ctx, path, "-dc")
	r.cmd.Stdin, r.cmd.Stderr = io.NewSectionReader(f, 0, info.Size()), r.said
	if r.out, err = r.cmd.StdoutPipe(); err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fault.Errorf(fault.Environment, "%s: %w", name, err)
	}
	return r, nil
}

// Read implements io.Reader: the end is only one when the program says so too.
func (r *running) Read(p []byte) (int, error) {
	n, err := r.out.Read(p)
	if err != io.EOF {
		return n, err
	}
	if err := r.wait(); err != nil {
		return n, err
	}
	return n, io.EOF
}

func (r *running) wait() error {
	if r.ended {
		return r.err
	}
	r.ended = true
	if err := r.cmd.Wait(); err != nil {
		r.err = fault.Errorf(fault.Source, "%s: %w: %s", r.name, err, strings.TrimSpace(r.said.String()))
	}
	return r.err
}

// Close implements io.Closer. That the program was ended by it is no error.
func (r *running) Close() error {
	r.cancel()
	_ = r.wait()
	return nil
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
