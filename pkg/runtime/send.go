package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

const (
	// sendReserve is the room that a host keeps beside a bundle, bytes: what the
	// receiver insists on for every file.
	sendReserve = 64 << 20
	// tellEvery is how often a transfer says how far it is.
	tellEvery = 5 * time.Second
)

// Transfer is what a host lacks of a bundle.
type Transfer struct {
	Digest string         `json:"digest"` // the bundle's
	Files  []TransferFile `json:"files"`  // all of the bundle, the manifest last
	Size   int64          `json:"size"`   // of all of them, bytes
	// Bytes is how many of them travel, before any compression.
	Bytes int64 `json:"bytes"`
	// Free is the room on the host's disk, bytes; 0 where it does not say.
	Free int64 `json:"free,omitempty"`
}

// TransferFile is a file of a bundle on its way.
type TransferFile struct {
	File   string `json:"file"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	// Bytes is how much of it travels: none where the host has it.
	Bytes int64 `json:"bytes"`
	// Chunks is into how many parts it is cut by its content, and Missing how
	// many of them the host has in none of its images; 0 where it travels in
	// one piece.
	Chunks  int `json:"chunks,omitempty"`
	Missing int `json:"missing,omitempty"`
	// There: the host has it as a whole.
	There bool `json:"there"`

	path string
	room int64 // that it has on the host's disk already, in part
}

// minChunked is the size from which a file travels in chunks, bytes.
const minChunked = 64 << 10

// chunked says whether it does.
func (f *TransferFile) chunked(s *control.Session) bool {
	return f.Size >= minChunked && s.Peer.Has(control.CanChunks)
}

// newTransfer is all of a bundle.
func newTransfer(dir string, m *bundle.Manifest) (*Transfer, error) {
	t := &Transfer{}
	for _, a := range m.Artifacts {
		t.Files = append(t.Files, TransferFile{File: a.File, Digest: a.Digest, Size: a.Size, path: filepath.Join(dir, a.File)})
	}
	path := filepath.Join(dir, bundle.ManifestFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if _, err := bundle.Parse(path, text); err != nil { // it may have been replaced
		return nil, err
	}
	sum := sha256.Sum256(text)
	t.Digest = "sha256:" + hex.EncodeToString(sum[:])
	t.Files = append(t.Files, TransferFile{File: bundle.ManifestFile, Digest: t.Digest, Size: int64(len(text)), path: path})
	for _, f := range t.Files {
		t.Size += f.Size
	}
	return t, nil
}

// compare asks the host what it has of the files, all at the same time: over a
// slow link each question is a way there and back.
func (h *Host) compare(ctx context.Context, t *Transfer) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	var info HostInfo
	group.Go(func() (err error) { info, err = h.Info(ctx); return err })
	for n := range t.Files {
		f := &t.Files[n]
		group.Go(func() error {
			return h.whileLost(ctx, func(s *control.Session) error {
				whole, offset, err := s.HasBlob(ctx, f.Digest)
				f.There, f.Bytes, f.room = whole, f.Size, 0
				if whole {
					f.Bytes = 0
				} else if offset < f.Size {
					f.Bytes, f.room = f.Size-offset, offset
				}
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	t.Free, t.Bytes = info.Free, 0
	for _, f := range t.Files {
		t.Bytes += f.Bytes
	}
	return nil
}

// plan finds out what exactly would travel, for which the host reads its images.
func (h *Host) plan(ctx context.Context, t *Transfer) error {
	t.Bytes = 0
	for n := range t.Files {
		f := &t.Files[n]
		if !f.There {
			if err := h.whileLost(ctx, func(s *control.Session) error { return f.plan(ctx, s) }); err != nil {
				return err
			}
		}
		t.Bytes += f.Bytes
	}
	return nil
}

func (f *TransferFile) plan(ctx context.Context, s *control.Session) error {
	if !f.chunked(s) {
		return nil
	}
	content, err := f.open()
	if err != nil {
		return err
	}
	defer content.Close()
	p, _, err := s.PutChunks(ctx, f.Digest, f.File, f.Size, content, true)
	if f.There = p.Whole; err == nil {
		f.Bytes, f.Chunks, f.Missing, f.room = p.Bytes, p.Chunks, p.Missing, max(f.room, p.Room)
	}
	return err
}

// whileLost makes a request that can be made again, also where its answer was
// lost with the session.
func (h *Host) whileLost(ctx context.Context, request func(*control.Session) error) error {
	for n := 1; ; n++ {
		s, err := h.open(ctx)
		if err != nil {
			return err
		}
		err = h.said(ctx, request(s))
		if n == tries || !errors.Is(err, control.ErrLost) || ctx.Err() != nil {
			return err
		}
	}
}

// room says whether the host has room for a bundle beside what it has: what is
// missing arrives, and what another slot has is copied, so that each slot is
// whole by itself.
func (h *Host) room(ctx context.Context, t *Transfer) error {
	need := t.Size + sendReserve
	for _, f := range t.Files {
		need -= f.room
	}
	if t.Bytes == 0 || t.Free == 0 || t.Free >= need {
		return nil
	}
	return h.said(ctx, fault.Errorf(fault.Environment, "there is no room for the bundle: %d MiB are free, and %d MiB are needed", t.Free>>20, (need+1<<20-1)>>20).
		Hintf("make room there"))
}

// send sends what the host does not have of a bundle, the manifest last, and
// returns the bundle's digest.
func (h *Host) send(ctx context.Context, dir string, m *bundle.Manifest, report Report) (digest string, err error) {
	t, err := newTransfer(dir, m)
	if err == nil {
		err = h.compare(ctx, t)
	}
	if err == nil {
		err = h.room(ctx, t)
	}
	if err != nil {
		return "", err
	}
	for n := range t.Files {
		if f := &t.Files[n]; !f.There {
			if err := h.sendFile(ctx, f, report); err != nil {
				return "", err
			}
		}
	}
	return t.Digest, nil
}

// open opens the file that is to be sent.
func (f *TransferFile) open() (_ *os.File, err error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, unreadable(f.path, err)
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, fault.Wrap(fault.Environment, err)
	case !info.Mode().IsRegular():
		return nil, fault.Errorf(fault.Verification, "%s is not a regular file", f.path).Hintf(bundleHint)
	case info.Size() != f.Size:
		return nil, fault.Errorf(fault.Verification, "%s: expected %d bytes, got %d", f.path, f.Size, info.Size()).Hintf(bundleHint)
	}
	return file, nil
}

// sendFile sends a file by its digest. Where the link breaks it goes on where
// that was, as long as it gets on at all.
func (h *Host) sendFile(ctx context.Context, f *TransferFile, report Report) error {
	file, err := f.open()
	if err != nil {
		return err
	}
	defer file.Close()
	content := &told{r: file, name: f.File, size: f.Size, report: report, said: time.Now()}
	// An image on the host may have changed while it was taken for a part of this
	// one; then it is sent in one piece.
	inOne := false
	for lost, best := 0, int64(-1); ; {
		there, err := h.sendRest(ctx, content, f, inOne)
		if err == nil {
			return nil
		}
		if fault.ClassOf(err) == fault.Verification {
			if !inOne {
				inOne = true
				continue
			}
			return fault.Errorf(fault.Verification, "%s: %w", f.path, err).Hintf(bundleHint)
		}
		if !errors.Is(err, control.ErrLost) && !errors.Is(err, errElsewhere) || ctx.Err() != nil {
			return fmt.Errorf("sending %s: %w", f.path, err)
		}
		lost++
		if there > best {
			lost, best = 0, there
		}
		if lost >= tries {
			return fmt.Errorf("sending %s: %w", f.path, err)
		}
	}
}

// told tells now and then how far a file has been read.
type told struct {
	r      io.ReaderAt
	name   string
	size   int64
	report Report

	mu   sync.Mutex
	said time.Time
}

func (t *told) ReadAt(b []byte, at int64) (int, error) {
	t.mu.Lock()
	now := time.Now()
	tell := now.Sub(t.said) >= tellEvery
	if tell {
		t.said = now
	}
	t.mu.Unlock()
	if tell {
		t.report.tell(PhaseInstall, fmt.Sprintf("sending %s: %d of %d MiB", t.name, at>>20, t.size>>20))
	}
	return t.r.ReadAt(b, at)
}

const bundleHint = "build the bundle again, or fetch it again from where it came"

func unreadable(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fault.Errorf(fault.Verification, "%s: the manifest names this file and it is not there", path).Hintf(bundleHint)
	case errors.Is(err, unix.ELOOP):
		return fault.Errorf(fault.Verification, "%s is a link, and the files of a bundle are none", path).Hintf("copy the file that it leads to")
	}
	return fault.Wrap(fault.Environment, err)
}

// errElsewhere: another program sends the same blob.
var errElsewhere = errors.New("another program sends it too")

// sendRest asks what is there of a file and sends the rest. there is how many of
// its bytes were.
func (h *Host) sendRest(ctx context.Context, content io.ReaderAt, f *TransferFile, inOne bool) (there int64, err error) {
	s, err := h.open(ctx)
	if err != nil {
		return 0, err
	}
	if !inOne && f.chunked(s) {
		p, _, err := s.PutChunks(ctx, f.Digest, f.File, f.Size, content, false)
		if p.Chunks > 0 {
			there = f.Size - p.Bytes
		}
		return there, h.said(ctx, err)
	}
	whole, offset, err := s.HasBlob(ctx, f.Digest)
	if err != nil || whole {
		return offset, h.said(ctx, err)
	}
	if offset >= f.Size && f.Size > 0 {
		offset = 0 // it is another's of a wrong size, or what is there is wrong
	}
	err = s.PutBlob(ctx, f.Digest, f.Size, offset, content)
	if errors.Is(err, control.ErrOffset) {
		err = fmt.Errorf("%w: %w", errElsewhere, err)
	}
	return offset, h.said(ctx, err)
}
