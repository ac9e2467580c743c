package engine

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// DefaultCacheLimit is the private engine's cache size in bytes. The
	// toolchain image, a kernel and the userland for two architectures leave
	// under 5 GB in it.
	DefaultCacheLimit = 20 << 30
	// MinCacheLimit is the smallest limit that holds the toolchain image and
	// one step.
	MinCacheLimit = 1 << 30
	// DefaultStepTimeout is generous: a kernel takes six minutes on two cores.
	DefaultStepTimeout = 2 * time.Hour
)

// Option configures [Start].
type Option func(*options) error

type options struct {
	address     string
	tls         TLS
	buildkitd   string
	stateDir    string
	logDir      string
	cacheLimit  int64
	timeout     time.Duration
	status      func(Status)
	cacheImport []client.CacheOptionsEntry
	cacheExport []client.CacheOptionsEntry
	host        host
}

// TLS are the files of a mutually authenticated tcp:// connection, PEM.
type TLS struct {
	CA, Cert, Key string
	// ServerName is the name in the server's certificate; empty: the address's host.
	ServerName string
}

// WithAddress sends steps to a BuildKit elsewhere: tcp://, unix://, ssh://,
// docker-container://, podman-container:// or kube-pod://. Empty (the default)
// is the private engine.
func WithAddress(address string) Option {
	return func(o *options) error { o.address = address; return nil }
}

// WithTLS gives the certificates for a tcp:// address.
func WithTLS(t TLS) Option {
	return func(o *options) error { o.tls = t; return nil }
}

// WithBuildkitd gives the private engine's program. The default is buildkitd
// beside the running program, then in PATH.
func WithBuildkitd(path string) Option {
	return func(o *options) error { o.buildkitd = path; return nil }
}

// WithStateDir chooses where the private engine keeps its cache, socket and
// log; the default is sovereign/engine in the user's cache directory. Engines
// with the same directory share one daemon.
func WithStateDir(dir string) Option {
	return func(o *options) error { o.stateDir = dir; return nil }
}

// WithLogDir chooses where steps' logs go; the default is logs in the state
// directory.
func WithLogDir(dir string) Option {
	return func(o *options) error { o.logDir = dir; return nil }
}

// WithCacheLimit bounds the private engine's cache, in bytes.
func WithCacheLimit(bytes int64) Option {
	return func(o *options) error {
		if bytes < MinCacheLimit {
			return fault.Errorf(fault.Usage, "engine cache limit of %d bytes: at least %d are needed", bytes, int64(MinCacheLimit))
		}
		o.cacheLimit = bytes
		return nil
	}
}

// WithStepTimeout is the deadline of steps that have none of their own.
func WithStepTimeout(d time.Duration) Option {
	return func(o *options) error {
		if d <= 0 {
			return fault.Errorf(fault.Usage, "step timeout %v: want more than 0", d)
		}
		o.timeout = d
		return nil
	}
}

// WithCacheImport adds a cache that the engine may take results from, as
// BuildKit writes it: "type=registry,ref=registry.example.org/sovereign".
func WithCacheImport(spec string) Option {
	return func(o *options) error {
		e, err := parseCache(spec)
		o.cacheImport = append(o.cacheImport, e)
		return err
	}
}

// WithCacheExport adds a cache that the engine puts results into:
// "type=s3,region=…,bucket=…,mode=max".
func WithCacheExport(spec string) Option {
	return func(o *options) error {
		e, err := parseCache(spec)
		o.cacheExport = append(o.cacheExport, e)
		return err
	}
}

// parseCache reads a cache's CSV of key=value, of which one is its type.
func parseCache(spec string) (client.CacheOptionsEntry, error) {
	bad := func(why string) (client.CacheOptionsEntry, error) {
		return client.CacheOptionsEntry{}, fault.Errorf(fault.Usage, "cache %q: %s", spec, why).
			Hintf("write it like type=registry,ref=HOST/NAME")
	}
	fields, err := csv.NewReader(strings.NewReader(spec)).Read()
	if err != nil {
		return bad("not a list of key=value")
	}
	e := client.CacheOptionsEntry{Attrs: map[string]string{}}
	for _, f := range fields {
		k, v, ok := strings.Cut(strings.TrimSpace(f), "=")
		switch _, twice := e.Attrs[k]; {
		case !ok || k == "":
			return bad(fmt.Sprintf("%q is not key=value", f))
		case twice || k == "type" && e.Type != "":
			return bad(k + " is there twice")
		case k == "type":
			e.Type = v
		default:
			e.Attrs[k] = v
		}
	}
	if e.Type == "" {
		return bad("no type")
	}
	return e, nil
}

func newOptions(opts []Option) (*options, error) {
	o := &options{
		cacheLimit: DefaultCacheLimit,
		timeout:    DefaultStepTimeout,
		host:       thisHost(),
	}
	for _, opt := range opts {
		if err := opt(o); err != nil {
			return nil, err
		}
	}
	if err := checkAddress(o.address, o.tls); err != nil {
		return nil, err
	}
	if o.stateDir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fault.Errorf(fault.Environment, "the engine's state directory: %w", err).Hintf("set HOME or XDG_CACHE_HOME")
		}
		o.stateDir = filepath.Join(cache, "sovereign", "engine")
	}
	if o.logDir == "" {
		o.logDir = filepath.Join(o.stateDir, "logs")
	}
	var err error
	if o.stateDir, err = filepath.Abs(o.stateDir); err != nil {
		return nil, err
	}
	o.logDir, err = filepath.Abs(o.logDir)
	return o, err
}

// findBuildkitd is the program of the private engine.
func (o *options) findBuildkitd() (string, error) {
	if o.buildkitd == "" {
		if self, err := os.Executable(); err == nil {
			beside := filepath.Join(filepath.Dir(self), "buildkitd")
			if _, err := os.Stat(beside); err == nil {
				return beside, nil
			}
		}
		if path, err := o.host.look("buildkitd"); err == nil {
			return path, nil
		}
		return "", elsewhere(fault.Errorf(fault.Environment, "buildkitd is neither beside this program nor in PATH").
			Hintf("build it with make"))
	}
	path, err := filepath.Abs(o.buildkitd)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", elsewhere(fault.Errorf(fault.Environment, "buildkitd: %w", err).Hintf("build it with make"))
	}
	return path, nil
}
