package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// body is long enough that a cut in the middle shows.
func body() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 20000) }

// server is an https mirror. A path says how it behaves.
type server struct {
	*httptest.Server
	hits   atomic.Int64
	ranges atomic.Int64
	cut    atomic.Int64 // answers still to be cut in the middle
	inCut  chan struct{}
}

func serve(t *testing.T) *server {
	t.Helper()
	s := &server{inCut: make(chan struct{})}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		b := body()
		from := 0
		if v := r.Header.Get("Range"); v != "" && r.URL.Path != "/norange" {
			s.ranges.Add(1)
			from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(v, "bytes="), "-"))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		switch r.URL.Path {
		case "/good", "/norange":
		case "/wrong":
			b[7] = 'X'
		case "/short":
			b = b[:len(b)-5]
		case "/long":
			b = append(b, "more"...)
		case "/endless":
			w.WriteHeader(http.StatusOK)
			for range 100 {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
			return
		case "/cut":
			if s.cut.Add(-1) >= 0 {
				w.Header().Set("Content-Length", strconv.Itoa(len(b)-from))
				if from > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				w.Write(b[from : from+(len(b)-from)/2])
				panic(http.ErrAbortHandler)
			}
		case "/shortened":
			// As HTTP/1.0 servers and some proxies end an answer whose length
			// they did not say.
			if s.cut.Add(-1) >= 0 {
				if from > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				w.Write(b[from : from+(len(b)-from)/2])
				w.(http.Flusher).Flush()
				return
			}
		case "/halved":
			w.Write(b[:len(b)/2])
			w.(http.Flusher).Flush()
			return
		case "/401", "/403", "/407", "/410", "/451", "/503":
			code, _ := strconv.Atoi(r.URL.Path[1:])
			w.WriteHeader(code)
			return
		case "/hang":
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			w.Write(b[:len(b)/2])
			w.(http.Flusher).Flush()
			close(s.inCut)
			<-r.Context().Done()
			return
		case "/busy":
			if s.cut.Add(-1) >= 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
		case "/html":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
		case "/tohttp":
			http.Redirect(w, r, "http://"+r.Host+"/good", http.StatusFound)
			return
		case "/tohttps":
			http.Redirect(w, r, "/good", http.StatusFound)
			return
		default:
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(b)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(b[from:])
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	return s
}

// events collects progress.
type events struct {
	mu   sync.Mutex
	list []Event
}

func (e *events) add(ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, ev)
}

func (e *events) count(k Kind) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, ev := range e.list {
		if ev.Kind == k {
			n++
		}
	}
	return n
}

func fetcher(t *testing.T, opts ...Option) (*Fetcher, *events) {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	ev := &events{}
	f, err := New(append([]Option{WithStore(s), WithProgress(ev.add)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return f, ev
}

func partials(t *testing.T, f *Fetcher) int {
	t.Helper()
	e, err := os.ReadDir(filepath.Join(f.cache, "partial"))
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

func src(name string, mirrors ...string) lock.Source {
	return lock.Source{Name: name, Version: "1", File: name + ".tar", Digest: store.FromBytes(body()), Size: int64(len(body())), Mirrors: mirrors}
}

func TestSources(t *testing.T) {
	const refused = "https://127.0.0.1:1/x" // nothing listens on port 1
	tests := map[string]struct {
		mirrors []string // "/path" of the server, or a URL
		cut     int64
		class   fault.Class // 0 for success
		missing bool
		text    []string
		ranges  int64
		partial int // files left for the next run
	}{
		"good":                  {mirrors: []string{"/good"}},
		"redirect":              {mirrors: []string{"/tohttps"}},
		"cut and resumed":       {mirrors: []string{"/cut"}, cut: 2, ranges: 2},
		"shortened and resumed": {mirrors: []string{"/shortened"}, cut: 2, ranges: 2},
		"busy once":             {mirrors: []string{"/busy"}, cut: 1},
		"second mirror":         {mirrors: []string{"/gone", "/good"}},
		"after wrong":           {mirrors: []string{"/wrong", "/good"}},
		"after long":            {mirrors: []string{"/long", "/good"}},
		"after endless":         {mirrors: []string{"/endless", "/good"}},
		"after refused":         {mirrors: []string{refused, "/good"}},
		"after halved":          {mirrors: []string{"/halved", "/good"}, ranges: 4},
		"wrong":                 {mirrors: []string{"/wrong"}, class: fault.Verification, text: []string{"expected " + string(store.FromBytes(body())), "got sha256:"}},
		"all wrong":             {mirrors: []string{"/wrong", "/short"}, class: fault.Verification, text: []string{"expected", "got", "/short"}},
		"short":                 {mirrors: []string{"/short"}, class: fault.Verification, text: []string{"320000 bytes", "319995"}},
		"long":                  {mirrors: []string{"/long"}, class: fault.Verification, text: []string{"320000 bytes", "320004"}},
		"endless":               {mirrors: []string{"/endless"}, class: fault.Verification},
		"wrong and gone":        {mirrors: []string{"/wrong", "/gone"}, class: fault.Verification},
		"gone":                  {mirrors: []string{"/gone"}, class: fault.Source, missing: true, text: []string{"zlib", "404", "/gone"}},
		"gone everywhere":       {mirrors: []string{"/gone", "/410"}, class: fault.Source, missing: true, text: []string{"404", "410"}},

		// A mirror that did not say that it lacks the file may have it.
		"halved":           {mirrors: []string{"/halved"}, class: fault.Source, text: []string{"160000 of 320000 bytes"}, ranges: 3, partial: 1},
		"gone and refused": {mirrors: []string{"/gone", refused}, class: fault.Source, text: []string{"zlib", "404", "/gone", refused}},
		"gone and halved":  {mirrors: []string{"/gone", "/halved"}, class: fault.Source, text: []string{"404", "of 320000 bytes"}, ranges: 3, partial: 1},
		"html":             {mirrors: []string{"/html"}, class: fault.Source, text: []string{"HTML"}},
		"gone and html":    {mirrors: []string{"/gone", "/html"}, class: fault.Source, text: []string{"HTML"}},
		"to http":          {mirrors: []string{"/tohttp"}, class: fault.Source, text: []string{"not https"}},
		"401":              {mirrors: []string{"/401"}, class: fault.Source, text: []string{"401"}},
		"403":              {mirrors: []string{"/403"}, class: fault.Source, text: []string{"403"}},
		"407":              {mirrors: []string{"/407"}, class: fault.Source, text: []string{"407"}},
		"451":              {mirrors: []string{"/451", "/gone"}, class: fault.Source, text: []string{"451"}},
		"503":              {mirrors: []string{"/gone", "/503"}, class: fault.Source, text: []string{"503"}},
		"refused":          {mirrors: []string{refused}, class: fault.Source, text: []string{"could not be fetched: zlib", "127.0.0.1:1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t)
			srv.cut.Store(tt.cut)
			f, ev := fetcher(t, WithHTTPClient(srv.Client()))
			var mirrors []string
			for _, m := range tt.mirrors {
				if m[0] == '/' {
					m = srv.URL + m
				}
				mirrors = append(mirrors, m)
			}
			s := src("zlib", mirrors...)
			err := f.Sources(t.Context(), []lock.Source{s}, nil)
			if n := partials(t, f); n != tt.partial {
				t.Errorf("%d partial files left, want %d", n, tt.partial)
			}
			if got := srv.ranges.Load(); got != tt.ranges {
				t.Errorf("%d range requests, want %d", got, tt.ranges)
			}
			if tt.class == 0 {
				if err != nil || !f.store.Has(s.Digest) || ev.count(Finished) != 1 {
					t.Fatalf("error %v, finished %d", err, ev.count(Finished))
				}
				hits := srv.hits.Load()
				if err := f.Sources(t.Context(), []lock.Source{s}, nil); err != nil || srv.hits.Load() != hits {
					t.Errorf("a second call: %v, %d requests", err, srv.hits.Load()-hits)
				}
				return
			}
			if err == nil || fault.ClassOf(err) != tt.class || f.store.Has(s.Digest) {
				t.Fatalf("error %v (class %d), want class %d", err, fault.ClassOf(err), tt.class)
			}
			for _, text := range tt.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q lacks %q", err, text)
				}
			}
			var missing *MissingError
			if errors.As(err, &missing) != tt.missing {
				t.Fatalf("%v is a MissingError: %v", err, !tt.missing)
			}
			if tt.missing && (missing.Names[0] != "zlib" || fault.HintOf(err) != "lock other versions of zlib") {
				t.Errorf("names %v, hint %q", missing.Names, fault.HintOf(err))
			}
		})
	}
}

func TestMissingNamesEveryInput(t *testing.T) {
	srv := serve(t)
	f, _ := fetcher(t, WithHTTPClient(srv.Client()))
	var all []lock.Source
	for name, path := range map[string]string{"a": "/gone", "b": "/gone2", "ok": "/good"} {
		s := src(name, srv.URL+path)
		if name != "ok" {
			s.Digest = store.FromBytes([]byte(name))
		}
		all = append(all, s)
	}
	err := f.Sources(t.Context(), all, nil)
	var missing *MissingError
	if !errors.As(err, &missing) || fmt.Sprint(missing.Names) != "[a b]" {
		t.Fatalf("error %v", err)
	}
	if hint := fault.HintOf(err); hint != "lock other versions of a, b" {
		t.Errorf("hint %q", hint)
	}
	if !f.store.Has(store.FromBytes(body())) {
		t.Error("the input that was there was not kept")
	}
}

// An input that could not be fetched is named beside those that are missing.
func TestMissingAndUnfetched(t *testing.T) {
	srv := serve(t)
	f, _ := fetcher(t, WithHTTPClient(srv.Client()))
	gone, portal := src("a", srv.URL+"/gone"), src("b", srv.URL+"/html")
	portal.Digest = store.FromBytes([]byte("b"))
	err := f.Sources(t.Context(), []lock.Source{gone, portal}, nil)
	var missing *MissingError
	if !errors.As(err, &missing) || fmt.Sprint(missing.Names) != "[a]" || !strings.Contains(err.Error(), "could not be fetched: b (") {
		t.Fatalf("error %v", err)
	}
}

func TestResumeAfterCancel(t *testing.T) {
	srv := serve(t)
	f, _ := fetcher(t, WithHTTPClient(srv.Client()))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-srv.inCut
		// Wait until the bytes have arrived: the part file shows it.
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			if i, err := os.Stat(filepath.Join(f.cache, "partial", store.FromBytes(body()).Hex())); err == nil && i.Size() > 0 {
				break
			}
		}
		cancel()
	}()
	err := f.Sources(ctx, []lock.Source{src("zlib", srv.URL+"/hang", srv.URL+"/good")}, nil)
	if fault.ClassOf(err) != fault.Cancelled {
		t.Fatalf("cancelled: %v", err)
	}
	if partials(t, f) != 1 {
		t.Fatal("the partial file did not survive")
	}
	if err := f.Sources(t.Context(), []lock.Source{src("zlib", srv.URL+"/good")}, nil); err != nil {
		t.Fatal(err)
	}
	if srv.ranges.Load() != 1 || partials(t, f) != 0 {
		t.Errorf("%d range requests, %d partial files", srv.ranges.Load(), partials(t, f))
	}
}

func TestDamagedPartial(t *testing.T) {
	for _, path := range []string{"/good", "/norange"} {
		srv := serve(t)
		f, ev := fetcher(t, WithHTTPClient(srv.Client()))
		s := src("zlib", srv.URL+path)
		for _, damage := range []int{1000, len(body()), len(body()) + 3} {
			if err := os.WriteFile(filepath.Join(f.cache, "partial", s.Digest.Hex()), make([]byte, damage), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := f.Sources(t.Context(), []lock.Source{s}, nil); err != nil {
				t.Fatalf("%s over %d wrong bytes: %v", path, damage, err)
			}
			if err := os.Remove(f.store.Path(s.Digest)); err != nil {
				t.Fatal(err)
			}
		}
		if ev.count(Retried) == 0 {
			t.Error("no notice")
		}
	}
}

func TestRefusedHostCostsOnce(t *testing.T) {
	var dials atomic.Int64
	client := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		dials.Add(1)
		return nil, errors.New("connection refused")
	})}
	f, _ := fetcher(t, WithHTTPClient(client))
	var all []lock.Source
	for i := range 20 {
		s := src(fmt.Sprint("s", i), "https://dead.example/x", "https://dead.example/y")
		s.Digest = store.FromBytes([]byte(s.Name))
		all = append(all, s)
	}
	if err := f.Sources(t.Context(), all, nil); fault.ClassOf(err) != fault.Source {
		t.Fatal(err)
	}
	if dials.Load() != 1 {
		t.Errorf("%d attempts to a dead host, want 1", dials.Load())
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

func TestOffline(t *testing.T) {
	client := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("the network was touched")
		return nil, errors.New("no")
	})}
	f, _ := fetcher(t, WithHTTPClient(client), WithOffline(true))
	s := src("zlib", "https://zlib.net/x")
	err := f.Sources(t.Context(), []lock.Source{s}, nil)
	if fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "zlib") {
		t.Fatal(err)
	}
	if _, _, err := f.store.Put(t.Context(), bytes.NewReader(body()), ""); err != nil {
		t.Fatal(err)
	}
	if err := f.Sources(t.Context(), []lock.Source{s}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestSourcesFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	srv := serve(t)
	f, _ := fetcher(t, WithHTTPClient(srv.Client()), WithCacheDir(dir))
	err := f.Sources(t.Context(), []lock.Source{src("zlib", srv.URL+"/good", srv.URL+"/good")}, nil)
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "bytes free") {
		t.Fatalf("full disk: %v (class %d)", err, fault.ClassOf(err))
	}
}

func TestTwoProcessesOneDownload(t *testing.T) {
	srv := serve(t)
	f, _ := fetcher(t, WithHTTPClient(srv.Client()))
	other, err := New(WithStore(f.store), WithHTTPClient(srv.Client()))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, f := range []*Fetcher{f, other, f, other} {
		wg.Go(func() {
			if err := f.Sources(t.Context(), []lock.Source{src("zlib", srv.URL+"/good")}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if srv.hits.Load() != 1 || partials(t, f) != 0 {
		t.Errorf("%d downloads, %d partial files", srv.hits.Load(), partials(t, f))
	}
}
