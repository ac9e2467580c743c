package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxPage bounds what is read into memory: listings and what a registry says of
// a package.
const maxPage = 16 << 20

// get gives what is at a URL, of which no digest is known, to read: from the
// first of its places that has it, and again where a connection broke. The
// whole is at most limit bytes; read is called anew for each attempt. page
// allows HTML, which in place of a file is a captive portal's.
func (f *Fetcher) get(ctx context.Context, b blob, rawURL string, limit int64, page bool, read func(io.Reader) error) error {
	return f.eachPlace(ctx, rawURL, func(place string) error {
		u, err := url.Parse(place)
		if err != nil {
			return err
		}
		b.mirror = place
		for try, wait := 1, 500*time.Millisecond; ; try, wait = try+1, 2*wait {
			err := f.getOnce(ctx, b, u, limit, page, read)
			var again *againError
			if !errors.As(err, &again) {
				return err
			}
			if try == maxTries {
				return again.err
			}
			f.tell(Event{Kind: Retried, Name: b.name, Mirror: place, Message: again.err.Error()})
			if err := pause.For(ctx, max(wait, again.after)); err != nil {
				return err
			}
		}
	})
}

func (f *Fetcher) getOnce(ctx context.Context, b blob, u *url.URL, limit int64, page bool, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var resp *http.Response
	err := f.hosts.do(ctx, u.Host, func() (err error) {
		resp, err = f.request(ctx, http.MethodGet, u, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()     // its end has been seen, or an error is returned
	b.size = resp.ContentLength // nothing else is known of it
	if page {
		resp.Header.Del("Content-Type")
	}
	if _, err := f.accept(resp, b, 0); err != nil {
		return err
	}
	if b.size > limit {
		return fault.Errorf(fault.Source, "%s has %d bytes, more than the %d that are read", u.Redacted(), b.size, limit)
	}
	stall := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("%s sent nothing for %s", u.Host, stallTimeout)) })
	defer stall.Stop()
	b.size = max(b.size, 0)
	w := &meter{f: f, b: b, alive: func() { stall.Reset(stallTimeout) }}
	broken := &noteError{r: io.TeeReader(resp.Body, w)}
	in := &io.LimitedReader{R: broken, N: limit + 1}
	err = read(in)
	switch {
	case broken.err != nil && context.Cause(ctx) != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return context.Cause(ctx)
	case broken.err != nil:
		if c := context.Cause(ctx); c != nil {
			broken.err = c // the stall
		}
		return &againError{err: fmt.Errorf("%s: interrupted after %d bytes: %w", u.Host, w.done, broken.err)}
	case in.N <= 0:
		return fault.Errorf(fault.Source, "%s has more than the %d bytes that are read", u.Redacted(), limit)
	}
	return err
}

// noteError notes with what error, other than its end, a reader ended.
type noteError struct {
	r   io.Reader
	err error
}

func (n *noteError) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && err != io.EOF {
		n.err = err
	}
	return k, err
}

// page is what is at a URL, in memory.
func (f *Fetcher) page(ctx context.Context, name, rawURL string) ([]byte, error) {
	var buf bytes.Buffer
	err := f.get(ctx, blob{name: name}, rawURL, maxPage, true, func(r io.Reader) error {
		buf.Reset()
		_, err := buf.ReadFrom(r)
		return err
	})
	return buf.Bytes(), err
}

// take brings the file at a URL into the store, whatever it is, or only if it
// has a digest that is wanted.
func (f *Fetcher) take(ctx context.Context, name, rawURL string, want store.Digest) (d store.Digest, n int64, err error) {
	temp, err := os.CreateTemp(filepath.Join(f.cache, "tmp"), "take-")
	if err != nil {
		return "", 0, store.FullDisk(f.cache, err)
	}
	defer func() {
		if rerr := os.Remove(temp.Name()); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	defer temp.Close() // synced by Adopt
	err = f.get(ctx, blob{name: name}, rawURL, lock.MaxSize, false, func(r io.Reader) error {
		if err := errors.Join(temp.Truncate(0), seekStart(temp)); err != nil {
			return store.FullDisk(f.cache, err)
		}
		n, err := io.Copy(temp, r)
		var disk *os.PathError
		if errors.As(err, &disk) {
			return store.FullDisk(f.cache, err)
		}
		if err == nil && n == 0 {
			return errors.New("the file is empty")
		}
		return err
	})
	if err != nil {
		return "", 0, err
	}
	return f.store.Adopt(ctx, temp.Name(), want)
}

func seekStart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}
