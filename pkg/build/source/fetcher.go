package source

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Fetcher fetches inputs. Make one a run: it remembers which hosts did not
// answer. Its methods may be called concurrently.
type Fetcher struct {
	store    *store.Store
	cache    string // directory for partial downloads, apt's lists, Go modules
	offline  bool
	client   *http.Client
	parallel int
	goCmd    string
	apt      *apt
	hosts    *hosts
	mirrors  recipe.Mirrors

	mu       sync.Mutex // serialises progress
	progress func(Event)
}

// Kind says what an Event tells.
type Kind int

const (
	// Started: a mirror is being asked.
	Started Kind = iota
	// Progressed: more bytes are there, at most ten times a second an input.
	Progressed
	// Retried: a mirror failed, Message says why, and another try follows.
	Retried
	// Finished: the input is in the store.
	Finished
)

// Event is a piece of progress.
type Event struct {
	Kind Kind
	// Name of the input: a source's name, "toolchain", "go" or "go modules".
	Name string
	// Mirror in use, as the lock has it; a package file's name for the
	// toolchain.
	Mirror string
	// Done and Total are bytes; Total is 0 where it is not known.
	Done, Total int64
	Message     string
}

// Option changes a Fetcher.
type Option func(*Fetcher) error

// WithStore sets the content store; it is required.
func WithStore(s *store.Store) Option {
	return func(f *Fetcher) error { f.store = s; return nil }
}

// WithCacheDir sets where partial downloads and apt's lists are kept: by
// default the directory that holds the store's.
func WithCacheDir(dir string) Option {
	return func(f *Fetcher) error {
		abs, err := filepath.Abs(dir)
		f.cache = abs
		return err
	}
}

// WithOffline forbids the network: what the store lacks is an error.
func WithOffline(offline bool) Option {
	return func(f *Fetcher) error { f.offline = offline; return nil }
}

// WithHTTPClient replaces the transport, for tests and special networks. The
// rules on redirects stay.
func WithHTTPClient(c *http.Client) Option {
	return func(f *Fetcher) error { f.client = c; return nil }
}

// WithMirrors has other places asked in place of those whose URLs begin with a
// key, in their order. What they give is held against the same digests.
func WithMirrors(m recipe.Mirrors) Option {
	return func(f *Fetcher) error { f.mirrors = m; return nil }
}

// WithProgress sets the callback; it is called from many goroutines, one call
// at a time, and must not block.
func WithProgress(fn func(Event)) Option {
	return func(f *Fetcher) error { f.progress = fn; return nil }
}

// WithParallelism sets how many downloads run at once, 1 to 64; 6 by default.
func WithParallelism(n int) Option {
	return func(f *Fetcher) error {
		if n < 1 || n > 64 {
			return fault.Errorf(fault.Usage, "parallelism %d is not from 1 to 64", n)
		}
		f.parallel = n
		return nil
	}
}

// WithAptDir sets the directory that holds sources.list and sources.list.d;
// /etc/apt by default.
func WithAptDir(dir string) Option {
	return func(f *Fetcher) error { f.apt.etc = dir; return nil }
}

// connectTimeout is how long an unreachable host costs, once a run.
const connectTimeout = 8 * time.Second

// New makes a Fetcher; WithStore is required.
func New(opts ...Option) (*Fetcher, error) {
	f := &Fetcher{
		parallel: 6,
		goCmd:    "go",
		hosts:    newHosts(),
		apt:      &apt{etc: "/etc/apt", fresh: make(map[string]bool)},
		progress: func(Event) {},
	}
	for _, o := range opts {
		if err := o(f); err != nil {
			return nil, err
		}
	}
	if f.store == nil {
		return nil, fault.Errorf(fault.Internal, "source.New: no store")
	}
	if f.cache == "" {
		f.cache = filepath.Dir(f.store.Dir())
	}
	f.apt.dir = filepath.Join(f.cache, "apt")
	if f.client == nil {
		f.client = &http.Client{Transport: &http.Transport{
			Proxy:                 f.apt.proxyFor,
			DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSHandshakeTimeout:   connectTimeout,
			ResponseHeaderTimeout: 30 * time.Second,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   f.parallel,
			IdleConnTimeout:       30 * time.Second,
			// The bytes are wanted as they lie on the server.
			DisableCompression: true,
		}}
	}
	client := *f.client
	client.CheckRedirect = checkRedirect
	f.client = &client
	for _, sub := range []string{"partial", "gomod", "apt", "tmp"} {
		if err := os.MkdirAll(filepath.Join(f.cache, sub), 0o755); err != nil {
			return nil, store.FullDisk(f.cache, err)
		}
	}
	return f, nil
}

func (f *Fetcher) tell(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.progress(e)
}
