package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// MaxBlob bounds one blob, bytes.
	MaxBlob = 64 << 30
	// maxBlobs bounds the files that wait, whole or not: two bundles of as many
	// artifacts as a manifest may have.
	maxBlobs = 130
	// blobReserve is the room that a blob leaves on the file system, bytes.
	blobReserve = 64 << 20
	// BlobAge is how long a blob is kept that nobody uses or sends more of.
	BlobAge = 24 * time.Hour
	// silence is how long a sender may pause.
	silence = 2 * time.Minute

	partSuffix = ".part"
	// chunkSuffix is of a file that chunks are put into at their places.
	chunkSuffix = ".chunks"
	// offsetHeader says how much of a blob is there already.
	offsetHeader = "Upload-Offset"
)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Blobs are files that arrive by digest, in a directory of their own, until
// somebody uses them. A part of one stays where its connection broke, and the
// next sender goes on there; one is only there as a whole when what was read
// back has its digest and is on the disk.
type Blobs struct {
	dir string
	// have says where else a blob is, whole and verified; "" for nowhere.
	have func(ctx context.Context, digest string) (path string, err error)
	// Seeds finds files that chunks of a blob may be in, which was a file of that
	// name; the likeliest first. It may be nil, and is not changed while blobs
	// arrive.
	Seeds func(ctx context.Context, name string) (paths []string, err error)
	// room is statfs; tests have less.
	room func(dir string) (free int64, err error)

	mu   sync.Mutex
	busy map[string]chan struct{} // digests that are worked on; closed at its end
}

// NewBlobs makes the directory if it is not there, for this user only. have
// finds blobs elsewhere, which need not be sent: "" is nowhere.
func NewBlobs(dir string, have func(ctx context.Context, digest string) (path string, err error)) (*Blobs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	return &Blobs{dir: dir, have: have, room: freeAt, busy: map[string]chan struct{}{}}, nil
}

func freeAt(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fault.Wrap(fault.Environment, &fs.PathError{Op: "statfs", Path: dir, Err: err})
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Free is the room in the directory's file system, bytes.
func (b *Blobs) Free() (int64, error) { return b.room(b.dir) }

func (b *Blobs) file(digest string) string {
	return filepath.Join(b.dir, strings.Replace(digest, ":", "-", 1))
}

// hold waits until nobody else works on a blob.
func (b *Blobs) hold(ctx context.Context, digest string) (release func(), err error) {
	for {
		b.mu.Lock()
		other, taken := b.busy[digest]
		if !taken {
			done := make(chan struct{})
			b.busy[digest] = done
			b.mu.Unlock()
			return func() {
				b.mu.Lock()
				delete(b.busy, digest)
				b.mu.Unlock()
				close(done)
			}, nil
		}
		b.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Open opens a blob that is there as a whole, for reading. One that is not is
// fs.ErrNotExist.
func (b *Blobs) Open(ctx context.Context, digest string) (*os.File, error) {
	if !digestForm.MatchString(digest) {
		return nil, fault.Errorf(fault.Usage, "%.80q is not sha256: and 64 hex digits", digest)
	}
	path, err := b.find(ctx, digest)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return nil, fault.Errorf(fault.Usage, "the blob %s was not sent: %w", digest, fs.ErrNotExist).Hintf("do it again")
	}
	f, err := os.Open(path)
	return f, fault.Wrap(fault.Environment, err)
}

// Waiting is the file of a blob that is there as a whole, among those that
// arrived; "" where it is not.
func (b *Blobs) Waiting(digest string) string {
	if info, err := os.Lstat(b.file(digest)); err == nil && info.Mode().IsRegular() {
		return b.file(digest)
	}
	return ""
}

func (b *Blobs) find(ctx context.Context, digest string) (path string, err error) {
	if path = b.Waiting(digest); path != "" {
		return path, nil
	}
	return b.have(ctx, digest)
}

// Drop removes blobs that somebody has used; those that are not there are no
// error.
func (b *Blobs) Drop(ctx context.Context, digests ...string) error {
	for _, digest := range digests {
		release, err := b.hold(ctx, digest)
		if err != nil {
			return err
		}
		err = os.Remove(b.file(digest))
		release()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(fault.Environment, err)
		}
	}
	return nil
}

// Sweep removes what nobody has used or added to for BlobAge, and what has no
// business there. It returns how many files are left.
func (b *Blobs) Sweep(now time.Time) (left int, err error) {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return 0, fault.Wrap(fault.Environment, err)
	}
	var errs []error
	for _, e := range entries {
		digest := strings.Replace(strings.TrimSuffix(strings.TrimSuffix(e.Name(), partSuffix), chunkSuffix), "-", ":", 1)
		b.mu.Lock()
		_, busy := b.busy[digest]
		if info, err := e.Info(); !busy && (err != nil || now.Sub(info.ModTime()) > BlobAge || !digestForm.MatchString(digest)) {
			// What cannot be looked at has just gone.
			errs = append(errs, os.RemoveAll(filepath.Join(b.dir, e.Name())))
		} else {
			left++
		}
		b.mu.Unlock()
	}
	return left, fault.Wrap(fault.Environment, errors.Join(errs...))
}

// Head answers how much of a blob is there: 200 for all of it, 404 with
// Upload-Offset for a part.
func (b *Blobs) Head(w http.ResponseWriter, r *http.Request, digest string) {
	if !digestForm.MatchString(digest) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	release, err := b.hold(r.Context(), digest)
	if err != nil {
		return // the peer is gone
	}
	defer release()
	path, err := b.find(r.Context(), digest)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if path == "" {
		w.Header().Set(offsetHeader, strconv.FormatInt(b.partSize(digest), 10))
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if path == b.file(digest) {
		// It is about to be used, and is not to be swept before. Where that
		// does not work it is sent again.
		now := time.Now()
		_ = os.Chtimes(path, now, now)
	}
	w.WriteHeader(http.StatusOK)
}

func (b *Blobs) partSize(digest string) int64 {
	info, err := os.Lstat(b.file(digest) + partSuffix)
	if err != nil {
		return 0
	}
	return info.Size()
}

// Put takes a part of a blob: the one that begins where the last one ended, or
// at 0. With its last byte the blob is verified.
func (b *Blobs) Put(w http.ResponseWriter, r *http.Request, digest string) {
	// What is not read is not waited for either.
	w.Header().Set("Connection", "close")
	if !digestForm.MatchString(digest) {
		WriteError(w, fault.Errorf(fault.Usage, "%.80q is not sha256: and 64 hex digits", digest))
		return
	}
	part, err := parseRange(r.Header.Get("Content-Range"))
	if err == nil && r.ContentLength != part.end-part.start {
		err = fault.Errorf(fault.Usage, "a body of %d bytes for a range of %d", r.ContentLength, part.end-part.start)
	}
	if err != nil {
		WriteError(w, err)
		return
	}
	release, err := b.hold(r.Context(), digest)
	if err != nil {
		return // the peer is gone
	}
	defer release()
	if path, err := b.find(r.Context(), digest); err != nil {
		WriteError(w, err)
		return
	} else if path != "" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	have := b.partSize(digest)
	if part.start != have && part.start != 0 {
		w.Header().Set(offsetHeader, strconv.FormatInt(have, 10))
		WriteErrorStatus(w, http.StatusConflict, fault.Errorf(fault.Device, "%d bytes of the blob %s are there, and the part begins at %d", have, digest, part.start))
		return
	}
	whole, err := b.take(w, r, digest, part)
	switch {
	case err != nil:
		WriteError(w, err)
	case whole:
		w.WriteHeader(http.StatusCreated)
	default:
		w.Header().Set(offsetHeader, strconv.FormatInt(part.end, 10))
		w.WriteHeader(http.StatusAccepted)
	}
}

// take adds a part to a blob, which nobody else works on.
func (b *Blobs) take(w http.ResponseWriter, r *http.Request, digest string, part byteRange) (whole bool, err error) {
	if err := b.place(digest, part.total, part.start); err != nil {
		return false, err
	}
	path := b.file(digest) + partSuffix
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	if err := f.Truncate(part.start); err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	if _, err := f.Seek(part.start, io.SeekStart); err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	sum := sha256.New()
	if part.start > 0 && part.end == part.total {
		if _, err := io.Copy(sum, stream.WithContext(r.Context(), io.NewSectionReader(f, 0, part.start))); err != nil {
			return false, fault.Wrap(fault.Environment, err)
		}
	}
	body := &patient{body: r.Body, c: http.NewResponseController(w)}
	n, err := receive(f, sum, body)
	switch {
	case isFull(err):
		// What is there of it must not keep the disk full.
		err = errors.Join(full(b.dir, part.total-part.start-n, err), os.Remove(path))
		return false, err
	case err != nil && body.err == nil:
		return false, fault.Wrap(fault.Environment, err)
	case err != nil:
		// It broke in the middle: the next part begins here.
		return false, fault.Errorf(fault.Device, "the blob %s: after %d bytes: %w", digest, part.start+n, err)
	case part.start+n != part.end:
		return false, fault.Errorf(fault.Device, "the blob %s: the part ends after %d bytes of %d", digest, n, part.end-part.start)
	case part.end < part.total:
		return false, nil
	}
	return true, b.finish(f, digest, sum)
}

// finish makes a file of which all has arrived the blob, if that is what it is;
// else it is thrown away.
func (b *Blobs) finish(f *os.File, digest string, sum hash.Hash) error {
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != digest {
		return errors.Join(fault.Errorf(fault.Verification, "the blob %s: what arrived is %s", digest, got).
			Hintf("see whether the file was changed while it was sent, and do it again"), os.Remove(f.Name()))
	}
	if err := f.Sync(); err != nil {
		if isFull(err) {
			return errors.Join(full(b.dir, 0, err), os.Remove(f.Name()))
		}
		return fault.Wrap(fault.Environment, err)
	}
	return atomicfile.Rename(f.Name(), b.file(digest))
}

// place sees to it that there is a place and room for the rest of a blob of size
// bytes, of which have have theirs.
func (b *Blobs) place(digest string, size, have int64) error {
	if size > MaxBlob {
		return fault.Errorf(fault.Usage, "a blob of %d bytes is larger than %d", size, int64(MaxBlob))
	}
	left, err := b.Sweep(time.Now())
	if err != nil {
		return err
	}
	if left >= maxBlobs && have == 0 && b.partSize(digest) == 0 {
		return fault.Errorf(fault.Usage, "%d blobs wait in %s, for bundles that nobody installs", left, b.dir).
			Hintf("remove that directory while no bundle is being installed")
	}
	free, err := b.room(b.dir)
	if err != nil {
		return err
	}
	if need := size - have + blobReserve; free < need {
		return fault.Errorf(fault.Environment, "the file system of %s is full: %d MiB are free, and %d MiB are needed", b.dir, free>>20, (need+1<<20-1)>>20).
			Hintf("make room there")
	}
	return nil
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func full(dir string, need int64, err error) error {
	return fault.Errorf(fault.Environment, "the file system of %s is full, and %d MiB more are needed: %w", dir, (need+1<<20-1)>>20, err).
		Hintf("make room there")
}

// patient reads a body whose sender may pause for a while, and keeps its error
// apart from the file's.
type patient struct {
	body io.Reader
	c    *http.ResponseController
	err  error
}

func (p *patient) Read(b []byte) (int, error) {
	if p.err = p.c.SetReadDeadline(time.Now().Add(silence)); p.err != nil {
		return 0, p.err
	}
	n, err := p.body.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		p.err = err
	}
	return n, err
}

// syncEvery is how much is given to the disk at a time while more arrives,
// bytes: it writes meanwhile, and the sync at the end waits for the rest.
const syncEvery = 8 << 20

// receive copies to the file, from where it stands, and hashes at the same time:
// on two cores one does not wait for the other.
func receive(f *os.File, sum hash.Hash, body io.Reader) (n int64, err error) {
	const size, count = 256 << 10, 4
	free, filled := make(chan []byte, count), make(chan []byte, count)
	for range count {
		free <- make([]byte, size)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := range filled {
			sum.Write(b)
			free <- b[:size]
		}
	}()
	begin, err := f.Seek(0, io.SeekCurrent)
	given := int64(0)
	for err == nil {
		b := <-free
		var got int
		if got, err = io.ReadFull(body, b); got > 0 {
			written, writeErr := f.Write(b[:got])
			n += int64(written)
			filled <- b[:got]
			if writeErr != nil {
				err = writeErr
			}
			if n-given >= syncEvery {
				// Not every file system can; the sync at the end can.
				_ = unix.SyncFileRange(int(f.Fd()), begin+given, n-given, unix.SYNC_FILE_RANGE_WRITE)
				given = n
			}
		}
	}
	close(filled)
	<-done
	if errors.Is(err, io.EOF) || err == io.ErrUnexpectedEOF { //nolint:errorlint // io.ReadFull's own
		err = nil
	}
	return n, err
}

// byteRange is a part of a blob, without its end.
type byteRange struct{ start, end, total int64 }

// parseRange reads a Content-Range: "bytes 0-9/20", and for a blob of no bytes
// "bytes */0".
func parseRange(s string) (r byteRange, err error) {
	bad := fault.Errorf(fault.Usage, "Content-Range %.80q: want bytes FIRST-LAST/SIZE", s)
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, total, cut := strings.Cut(rest, "/")
	if !ok || !cut {
		return r, bad
	}
	if r.total, err = parseCount(total); err != nil {
		return r, bad
	}
	if span == "*" && r.total == 0 {
		return r, nil
	}
	first, last, cut := strings.Cut(span, "-")
	if r.start, err = parseCount(first); err != nil || !cut {
		return r, bad
	}
	if r.end, err = parseCount(last); err != nil || r.end < r.start || r.end >= r.total {
		return r, bad
	}
	r.end++
	return r, nil
}

// parseCount reads digits only; strconv takes a sign too.
func parseCount(s string) (int64, error) {
	if len(s) > 18 || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%.40q is not a number", s)
	}
	return strconv.ParseInt(s, 10, 64)
}

// HasBlob asks how much of a blob the peer has; whole for all of it.
func (s *Session) HasBlob(ctx context.Context, digest string) (whole bool, offset int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, base+blobPath(digest), nil)
	if err != nil {
		return false, 0, fault.Wrap(fault.Internal, err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return false, 0, lost(ctx, err)
	}
	resp.Body.Close()
	switch text := resp.Header.Get(offsetHeader); {
	case resp.StatusCode == http.StatusOK:
		return true, 0, nil
	case resp.StatusCode == http.StatusNotFound && text != "":
		if offset, err = parseCount(text); err == nil {
			return false, offset, nil
		}
	}
	return false, 0, parseError(resp.StatusCode, nil)
}

// PutBlob sends a blob of size bytes from offset on. Where its session ends
// before its answer, ErrLost, it may go on at another offset over another.
func (s *Session) PutBlob(ctx context.Context, digest string, size, offset int64, content io.ReaderAt) error {
	span := fmt.Sprintf("bytes %d-%d/%d", offset, size-1, size)
	if size == 0 {
		span = "bytes */0"
	}
	section := io.NewSectionReader(content, offset, size-offset)
	source := &source{r: section}
	resp, err := s.do(ctx, http.MethodPut, blobPath(digest), source, func(r *http.Request) {
		r.Header.Set("Content-Range", span)
		r.ContentLength = size - offset
		if r.ContentLength == 0 {
			r.Body = http.NoBody
		}
	})
	if sourceErr := source.failed(); sourceErr != nil {
		if err == nil {
			resp.Body.Close()
		}
		return fault.Errorf(fault.Environment, "reading the blob %s: %w", digest, sourceErr)
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// ErrOffset is PutBlob's error for an offset that is not the blob's any more:
// another sends it too.
var ErrOffset = errors.New("the blob has another size by now")

func blobPath(digest string) string { return "/v1/blobs/" + digest }

// source keeps the error of the file that is sent, which the transport takes
// for one of its own.
type source struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *source) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
