// Package machinefile is a machine in one file: a tar archive, compressed by
// zstd, which any tar unpacks. In come what is known of the machine, its bundle
// and its data disk; out goes a stream that tells whoever reads it whether it is
// whole and unchanged. The package knows neither machines nor hosts.
//
// The entries are, in this order:
//
//	machine.json          Head
//	bundle/manifest.json  the bundle's manifest, then
//	bundle/FILE           each file that it names
//	data/OFFSET           a piece of the data disk's image: OFFSET is in bytes, 16
//	                      hex digits; pieces come in order, and all else is zero
//	end.json              SHA-256 of all before it: each entry's name, a zero
//	                      byte, its size in decimal, a zero byte, its content
//
// A writer that cannot go on ends with error.json in place of end.json. A file
// without either was cut off.
package machinefile

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/backup/image"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// Schema is the version of Head that is written and read.
	Schema = 1

	maxHead  = 1 << 20
	maxImage = 16 << 40
	maxFile  = 64 << 30 // of a bundle
	piece    = 4 << 20  // of an image, in one entry at most
	block    = 64 << 10 // what is zero in blocks of this size is left out
	files    = 128      // of a bundle, at most

	headName, endName, errorName = "machine.json", "end.json", "error.json"
	bundleDir, dataDir           = "bundle/", "data/"
)

// Head is what is known of the machine. Its owner's part is Machine, which this
// package passes on as it is.
type Head struct {
	Schema  int             `json:"schema"`
	Name    string          `json:"name"`
	Made    time.Time       `json:"made"`
	Size    int64           `json:"size"` // of the data disk, in bytes
	Used    int64           `json:"used"` // of it, at most: for progress
	Bundle  string          `json:"bundle"`
	Machine json.RawMessage `json:"machine"`
}

// failure is error.json.
type failure struct {
	Class fault.Class `json:"class"`
	Text  string      `json:"error"`
	Hint  string      `json:"hint,omitempty"`
}

// A Writer writes a machine in the order of the package comment.
type Writer struct {
	z   *zstd.Encoder
	t   *tar.Writer
	sum hash.Hash
}

// NewWriter begins a file.
func NewWriter(w io.Writer, h Head) (*Writer, error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return nil, err
	}
	v := &Writer{z, tar.NewWriter(z), sha256.New()}
	h.Schema = Schema
	text, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return nil, err
	}
	return v, v.entry(headName, int64(len(text)), bytes.NewReader(text))
}

func (w *Writer) entry(name string, size int64, r io.Reader) error {
	// A date of its own would make every file another.
	head := &tar.Header{Name: name, Mode: 0o600, Size: size, Format: tar.FormatPAX, ModTime: time.Unix(0, 0)}
	if err := w.t.WriteHeader(head); err != nil {
		return err
	}
	note(w.sum, name, size)
	_, err := io.Copy(io.MultiWriter(w.t, w.sum), r)
	return err
}

func note(h hash.Hash, name string, size int64) { fmt.Fprintf(h, "%s\x00%d\x00", name, size) }

// File writes a file of the bundle; the manifest is the first.
func (w *Writer) File(name string, size int64, r io.Reader) error {
	return w.entry(bundleDir+name, size, r)
}

// Image writes what of an image is not zero. moved is told how many bytes of it
// were read; it may be nil.
func (w *Writer) Image(ctx context.Context, i *image.Image, moved func(int64)) error {
	return Pieces(ctx, i, moved, func(off int64, b []byte) error {
		return w.entry(dataDir+fmt.Sprintf("%016x", off), int64(len(b)), bytes.NewReader(b))
	})
}

// Pieces reads what of an image is not zero, in order and in pieces of at most
// 4 MiB, which are the callee's only until it returns. moved is told how many
// bytes of the image were read; it may be nil.
func Pieces(ctx context.Context, i *image.Image, moved func(int64), each func(off int64, b []byte) error) error {
	ranges, err := i.Ranges()
	if err != nil {
		return err
	}
	buf := make([]byte, piece)
	for _, r := range ranges {
		for off, end := r.Offset, r.Offset+r.Length; off < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b := buf[:min(piece, end-off)]
			if _, err := i.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if err := filled(b, func(from, to int) error { return each(off+int64(from), b[from:to]) }); err != nil {
				return err
			}
			off += int64(len(b))
			if moved != nil {
				moved(int64(len(b)))
			}
		}
	}
	return nil
}

// filled calls each for the runs of blocks that are not zero.
func filled(b []byte, each func(from, to int) error) error {
	zero := make([]byte, block)
	for from := 0; from < len(b); {
		end := min(from+block, len(b))
		if bytes.Equal(b[from:end], zero[:end-from]) {
			from = end
			continue
		}
		to := end
		for to < len(b) {
			next := min(to+block, len(b))
			if bytes.Equal(b[to:next], zero[:next-to]) {
				break
			}
			to = next
		}
		if err := each(from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// Close ends the file: with err as the reason where it is not whole.
func (w *Writer) Close(err error) error {
	name, v := endName, any(map[string]string{"sha256": hex.EncodeToString(w.sum.Sum(nil))})
	if err != nil {
		name, v = errorName, failure{fault.ClassOf(err), err.Error(), fault.HintOf(err)}
	}
	text, wrong := json.Marshal(v)
	if wrong == nil {
		wrong = w.entry(name, int64(len(text)), bytes.NewReader(text))
	}
	return errors.Join(wrong, w.t.Close(), w.z.Close())
}

// A Sink takes a machine as it is read. Where Read has an error, what it took is
// of no use.
type Sink interface {
	// Head comes first.
	Head(h Head) error
	// File is a file of the bundle; its content is not held to the manifest
	// yet.
	File(name string, size int64, r io.Reader) error
	// Data is a piece of the image.
	Data(off int64, b []byte) error
}

// Read reads a file to its end, and holds it to its own sum. Errors in the
// content are of class fault.Verification, and one that its writer ended with is
// the writer's.
func Read(r io.Reader, to Sink) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	v := &reader{t: tar.NewReader(z), sum: sha256.New(), to: to}
	for v.step = 0; ; {
		h, err := v.t.Next()
		if err != nil {
			return cut(err)
		}
		over, err := v.entry(h)
		if err != nil {
			return err
		}
		if over {
			// Nothing may follow, and the checksum of zstd is read too.
			if n, err := io.Copy(io.Discard, io.LimitReader(z, 1<<20)); err != nil || n == 1<<20 {
				return cut(errors.Join(err, errors.New("there is more behind the end")))
			}
			return nil
		}
	}
}

// cut is the error of a file that cannot be read on.
func cut(err error) error {
	if fault.ClassOf(err) == fault.Cancelled {
		return err
	}
	return fault.Errorf(fault.Verification, "the file of the machine is cut off or damaged: %w", err).
		Hintf("export the machine again, or copy the file again")
}

type reader struct {
	t     *tar.Reader
	sum   hash.Hash
	to    Sink
	step  int // 0: head, 1: bundle, 2: data
	head  Head
	files int
	next  int64 // no piece begins before
}

func wrong(format string, args ...any) error {
	return cut(fmt.Errorf(format, args...))
}

func (r *reader) entry(h *tar.Header) (over bool, err error) {
	if h.Typeflag != tar.TypeReg || h.Size < 0 {
		return false, wrong("%.100q is no plain file", h.Name)
	}
	name, isFile := strings.CutPrefix(h.Name, bundleDir)
	offset, isData := strings.CutPrefix(h.Name, dataDir)
	switch {
	case h.Name == errorName:
		return false, r.failed(h)
	case h.Name == endName && r.step > 0:
		return true, r.end(h)
	case h.Name == headName && r.step == 0:
		return false, r.readHead(h)
	case isFile && r.step == 1:
		return false, r.file(name, h)
	case isData && r.step > 0:
		return false, r.data(offset, h)
	}
	return false, wrong("%.100q is not what comes here", h.Name)
}

// small reads an entry of JSON.
func (r *reader) small(h *tar.Header) ([]byte, error) {
	if h.Size > maxHead {
		return nil, wrong("%s of %d bytes", h.Name, h.Size)
	}
	b, err := io.ReadAll(io.LimitReader(r.t, maxHead))
	if err == nil && int64(len(b)) != h.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, cut(err)
	}
	return b, nil
}

func (r *reader) readHead(h *tar.Header) error {
	b, err := r.small(h)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &r.head); err != nil {
		return wrong("%s: %w", headName, err)
	}
	switch {
	case r.head.Schema < 1 || r.head.Schema > Schema:
		return fault.Errorf(fault.Verification, "the file of the machine has schema %d, and this program reads 1 to %d", r.head.Schema, Schema).
			Hintf("use the version of this program that wrote it")
	case r.head.Size < 0 || r.head.Size > maxImage:
		return wrong("a data disk of %d bytes", r.head.Size)
	}
	r.step = 1
	note(r.sum, h.Name, h.Size)
	r.sum.Write(b)
	return r.to.Head(r.head)
}

func (r *reader) file(name string, h *tar.Header) error {
	r.files++
	switch {
	case name == "" || strings.ContainsAny(name, "/\\\x00") || name == "." || name == "..":
		return wrong("%.100q is no name of a bundle's file", name)
	case (r.files == 1) != (name == bundle.ManifestFile):
		return wrong("%.100q comes before the manifest, or twice", name)
	case r.files > files || h.Size > maxFile:
		return wrong("%d files, the last of %d bytes", r.files, h.Size)
	}
	note(r.sum, h.Name, h.Size)
	content := &counted{r: io.TeeReader(r.t, r.sum)}
	if err := r.to.File(name, h.Size, content); err != nil {
		if content.err != nil && !errors.Is(content.err, io.EOF) {
			return cut(content.err)
		}
		return err
	}
	if content.n != h.Size {
		return wrong("%s: %d of %d bytes", h.Name, content.n, h.Size)
	}
	return nil
}

// counted remembers how a reader ended.
type counted struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

func (r *reader) data(offset string, h *tar.Header) error {
	r.step = 2
	off, err := strconv.ParseInt(offset, 16, 63)
	if err != nil || len(offset) != 16 || off < r.next || h.Size < 1 || h.Size > piece || off > r.head.Size-h.Size {
		return wrong("%.100q of %d bytes does not fit a disk of %d", h.Name, h.Size, r.head.Size)
	}
	b := make([]byte, h.Size)
	if _, err := io.ReadFull(r.t, b); err != nil {
		return cut(err)
	}
	note(r.sum, h.Name, h.Size)
	r.sum.Write(b)
	r.next = off + h.Size
	return r.to.Data(off, b)
}

func (r *reader) end(h *tar.Header) error {
	b, err := r.small(h)
	if err != nil {
		return err
	}
	var end struct {
		SHA256 string `json:"sha256"`
	}
	if err := json.Unmarshal(b, &end); err != nil {
		return wrong("%s: %w", endName, err)
	}
	if got := hex.EncodeToString(r.sum.Sum(nil)); got != end.SHA256 {
		return wrong("its content has SHA-256 %s, and it says %.64q", got, end.SHA256)
	}
	return nil
}

// failed is the error that the writer ended with.
func (r *reader) failed(h *tar.Header) error {
	b, err := r.small(h)
	if err != nil {
		return err
	}
	var f failure
	if err := json.Unmarshal(b, &f); err != nil {
		return wrong("%s: %w", errorName, err)
	}
	if f.Class < fault.Internal || f.Class > fault.Stale && f.Class != fault.Cancelled {
		f.Class = fault.Device
	}
	e := fault.Errorf(f.Class, "%s", f.Text)
	e.Hint = f.Hint
	return e
}
