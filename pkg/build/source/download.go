package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// maxTries bounds the attempts at one URL that bring nothing new.
	maxTries = 3
	// stallTimeout ends a transfer that stands still.
	stallTimeout = 60 * time.Second
	// pollLock is how often a download that another process has under way is
	// looked at.
	pollLock = 200 * time.Millisecond
)

// blob is one file to fetch.
type blob struct {
	name   string // of the input, for progress
	mirror string // for progress
	digest store.Digest
	size   int64
}

// download brings url into the store, from the first of its places that has it.
func (f *Fetcher) download(ctx context.Context, b blob, url string) error {
	return f.eachPlace(ctx, url, func(place string) error { return f.downloadFrom(ctx, b, place) })
}

// downloadFrom brings url into the store. The file grows under the cache
// directory by a name made of its digest, so that any later run, from any
// mirror, goes on where this one ended.
func (f *Fetcher) downloadFrom(ctx context.Context, b blob, url string) error {
	part, err := f.openPartial(ctx, b)
	if err != nil || part == nil {
		return err // nil, nil: another process has stored it meanwhile
	}
	defer part.Close() // synced by Adopt; a partial file needs no sync
	resumed := false
	for try, wait := 1, 500*time.Millisecond; ; {
		before, err := part.Seek(0, io.SeekEnd)
		if err != nil {
			return store.FullDisk(f.cache, err)
		}
		resumed = resumed || before > 0
		if before < b.size {
			err = f.transfer(ctx, part, b, url, before)
		}
		if err == nil {
			_, _, err := f.store.Adopt(ctx, part.Name(), b.digest)
			if err == nil || !resumed || fault.ClassOf(err) != fault.Verification {
				return err
			}
			// The beginning may have been another mirror's: once more, whole.
			f.tell(Event{Kind: Retried, Name: b.name, Mirror: b.mirror, Total: b.size, Message: "the resumed file has a wrong digest; fetching it whole"})
			return f.downloadWhole(ctx, b, url)
		}
		var again *againError
		if !errors.As(err, &again) {
			return f.drop(part, err)
		}
		after, serr := part.Seek(0, io.SeekEnd)
		if serr != nil {
			return store.FullDisk(f.cache, serr)
		}
		if after > before {
			try, wait = 1, 500*time.Millisecond
		} else if try++; try > maxTries {
			return f.drop(part, again.err)
		}
		f.tell(Event{Kind: Retried, Name: b.name, Mirror: b.mirror, Done: after, Total: b.size, Message: again.err.Error()})
		if err := pause.For(ctx, max(wait, again.after)); err != nil {
			return err
		}
		wait *= 2
	}
}

// downloadWhole is download once more after Adopt has removed the file.
func (f *Fetcher) downloadWhole(ctx context.Context, b blob, url string) error {
	part, err := f.openPartial(ctx, b)
	if err != nil || part == nil {
		return err
	}
	defer part.Close() // as in download
	if err := part.Truncate(0); err != nil {
		return store.FullDisk(f.cache, err)
	}
	if err := f.transfer(ctx, part, b, url, 0); err != nil {
		return f.drop(part, err)
	}
	_, _, err = f.store.Adopt(ctx, part.Name(), b.digest)
	return err
}

// drop removes a partial file that is known to be wrong or that is empty;
// other errors leave it for the next run.
func (f *Fetcher) drop(part *os.File, err error) error {
	info, serr := part.Stat()
	if fault.ClassOf(err) == fault.Verification || serr != nil || info.Size() == 0 {
		if rerr := os.Remove(part.Name()); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			return errors.Join(err, rerr)
		}
	}
	return err
}

// againError is a failure that another try at the same URL may mend.
type againError struct {
	err   error
	after time.Duration // what the server asked to wait
}

func (e *againError) Error() string { return e.err.Error() }
func (e *againError) Unwrap() error { return e.err }

// transfer asks for the bytes from offset on and appends them.
func (f *Fetcher) transfer(ctx context.Context, part *os.File, b blob, rawURL string, offset int64) error {
	u, err := url.Parse(rawURL)
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var resp *http.Response
	err = f.hosts.do(ctx, u.Host, func() error {
		resp, err = f.request(ctx, http.MethodGet, u, offset)
		return err
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close() // its end has been seen, or an error is returned
	offset, err = f.accept(resp, b, offset)
	if err != nil {
		return err
	}
	if err := part.Truncate(offset); err != nil {
		return store.FullDisk(f.cache, err)
	}
	if _, err := part.Seek(offset, io.SeekStart); err != nil {
		return store.FullDisk(f.cache, err)
	}
	stall := time.AfterFunc(stallTimeout, func() {
		cancel(fmt.Errorf("%s sent nothing for %s", u.Host, stallTimeout))
	})
	defer stall.Stop()
	w := &meter{f: f, b: b, done: offset, alive: func() { stall.Reset(stallTimeout) }}
	// One byte more than wanted shows a file that is too long.
	n, err := io.Copy(part, io.TeeReader(io.LimitReader(resp.Body, b.size-offset+1), w))
	var disk *os.PathError
	switch {
	case errors.As(err, &disk):
		return store.FullDisk(f.cache, err)
	case err != nil && context.Cause(ctx) != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return context.Cause(ctx)
	case err != nil:
		if c := context.Cause(ctx); c != nil {
			err = c // the stall
		}
		return &againError{err: fmt.Errorf("%s: interrupted after %d of %d bytes: %w", u.Host, offset+n, b.size, err)}
	case offset+n > b.size:
		return wrongSize(b.digest, b.size, offset+n)
	case offset+n < b.size:
		// An answer without Content-Length that ended early looks whole.
		return &againError{err: fmt.Errorf("%s ended after %d of %d bytes", u.Host, offset+n, b.size)}
	}
	return nil
}

// request sends one request and sorts out the failures that tell about the
// host rather than about the file.
func (f *Fetcher) request(ctx context.Context, method string, u *url.URL, offset int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	// A name of our own: some mirrors turn away Go's default one.
	req.Header.Set("User-Agent", "sovereign-build")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := f.client.Do(req)
	if err == nil {
		return resp, nil
	}
	var (
		ue       *url.Error
		redirect *redirectError
	)
	if errors.As(err, &ue) {
		err = ue.Err // the text without the URL, which the mirror's name says
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.As(err, &redirect):
		return nil, redirect // the host was reached
	default:
		return nil, &unreachableError{u.Host, err}
	}
}

// accept looks at the answer's head and returns the offset its body begins at.
func (f *Fetcher) accept(resp *http.Response, b blob, offset int64) (int64, error) {
	html := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
	switch code := resp.StatusCode; {
	case code == http.StatusPartialContent:
		var from, to, total int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); err != nil || from != offset {
			return 0, fmt.Errorf("asked for the bytes from %d, got Content-Range %q", offset, resp.Header.Get("Content-Range"))
		}
		if total != b.size {
			return 0, wrongSize(b.digest, b.size, total)
		}
		return from, nil
	case code == http.StatusOK && html:
		return 0, errors.New("an HTML page in place of the file, as captive portals send it")
	case code == http.StatusOK && resp.ContentLength >= 0 && resp.ContentLength != b.size:
		return 0, wrongSize(b.digest, b.size, resp.ContentLength)
	case code == http.StatusOK:
		return 0, nil
	case code == http.StatusRequestedRangeNotSatisfiable:
		var total int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes */%d", &total); err != nil || total == b.size {
			return 0, errors.New("HTTP " + resp.Status)
		}
		return 0, wrongSize(b.digest, b.size, total)
	case code == http.StatusTooManyRequests || code >= 500:
		after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if err != nil || after < 0 {
			after = 0
		}
		return 0, &againError{err: errors.New("HTTP " + resp.Status), after: time.Duration(min(after, 30)) * time.Second}
	default:
		return 0, statusError(resp)
	}
}

// openPartial opens the partial file of b and holds its lock, waiting for
// another process that downloads the same. It returns nil if that one has
// brought the blob into the store.
func (f *Fetcher) openPartial(ctx context.Context, b blob) (*os.File, error) {
	path := filepath.Join(f.cache, "partial", b.digest.Hex())
	for {
		if f.store.Has(b.digest) {
			return nil, nil
		}
		part, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, store.FullDisk(f.cache, err)
		}
		held, err := flock.Try(part, flock.Exclusive)
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return nil, errors.Join(err, part.Close())
		}
		if held || err != nil { // or a file system without locks
			// It may have been moved away between opening and locking.
			here, err1 := part.Stat()
			there, err2 := os.Stat(path)
			if err1 == nil && err2 == nil && os.SameFile(here, there) && !f.store.Has(b.digest) {
				return part, nil
			}
			part.Close() // not ours any more
			continue
		}
		part.Close() // somebody else's
		if err := pause.For(ctx, pollLock); err != nil {
			return nil, err
		}
	}
}

// meter tells of progress, at most ten times a second.
type meter struct {
	f     *Fetcher
	b     blob
	done  int64
	last  time.Time
	alive func()
}

func (m *meter) Write(p []byte) (int, error) {
	m.done += int64(len(p))
	m.alive()
	if now := time.Now(); now.Sub(m.last) >= 100*time.Millisecond {
		m.last = now
		m.f.tell(Event{Kind: Progressed, Name: m.b.name, Mirror: m.b.mirror, Done: m.done, Total: m.b.size})
	}
	return len(p), nil
}
