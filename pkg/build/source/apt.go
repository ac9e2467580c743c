package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// listsAge is how long a suite's lists are good without asking the archive.
const listsAge = 24 * time.Hour

// Types of lists: source packages, or binary packages of the toolchain's
// architecture.
const (
	sourceLists = "deb-src"
	binaryLists = "deb"
)

// toolchainArch is the architecture of the toolchain image: the one compile
// steps run on, whatever they compile for.
const toolchainArch = "amd64"

// apt runs the machine's apt on private lists. It reads the machine's sources
// and configuration and writes only below dir.
type apt struct {
	etc string // /etc/apt
	dir string

	once     sync.Once
	found    []archive
	foundErr error

	proxyOnce sync.Once
	proxy     map[string]string

	mu    sync.Mutex
	fresh map[string]bool // lists updated in this run
}

// archives are the machine's Debian archives; none is an error.
func (a *apt) archives() ([]archive, error) {
	a.once.Do(func() {
		found, err := findArchives(a.etc)
		switch {
		case err != nil:
			a.foundErr = fault.Errorf(fault.Environment, "apt sources: %w", err)
		case len(found) == 0:
			a.foundErr = fault.Errorf(fault.Environment, "the apt of this machine has no Debian archive in %s", a.etc).
				Hintf("run on Debian, or add a Debian archive to %s/sources.list.d", a.etc)
		}
		a.found = found
	})
	return a.found, a.foundErr
}

// lists is one private apt configuration with its downloaded lists.
type lists struct {
	apt  *apt
	root string
}

// args are apt options that keep it off the machine's state.
func (l lists) args(args ...string) []string {
	opts := []string{
		"Dir::Etc::SourceList=/dev/null",
		"Dir::Etc::SourceParts=" + filepath.Join(l.root, "parts"),
		"Dir::Etc::Preferences=/dev/null",
		"Dir::Etc::PreferencesParts=/dev/null",
		"Dir::State=" + filepath.Join(l.root, "state"),
		"Dir::State::status=/dev/null",
		"Dir::Cache=" + filepath.Join(l.root, "cache"),
		"Dir::Log=/dev/null",
		"APT::Architecture=" + toolchainArch,
		"APT::Architectures=" + toolchainArch,
		"APT::Default-Release=",
		"APT::Install-Recommends=false",
		"APT::Install-Suggests=false",
		"APT::Update::Error-Mode=any",
		"Acquire::Languages=none",
		"Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"Acquire::http::Timeout=10",
		"Acquire::https::Timeout=10",
		"Acquire::Retries=2",
		"Debug::NoLocking=true",
	}
	if os.Getuid() == 0 {
		// The lists lie below the user's cache directory, where the _apt user
		// cannot look.
		opts = append(opts, "APT::Sandbox::User=root")
	}
	var out []string
	for _, o := range opts {
		out = append(out, "-o", o)
	}
	return append(out, args...)
}

// run gives the command's output line by line to read, and its last error
// lines as an error.
func (l lists) run(ctx context.Context, name string, read func(io.Reader) error, args ...string) error {
	cmd := exec.CommandContext(ctx, name, l.args(args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Dir = l.root // apt-get source skips files that lie in its directory
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	if err := cmd.Start(); err != nil {
		return fault.Errorf(fault.Environment, "%s: %w", name, err).
			Hintf("install apt, or run on a Debian machine")
	}
	readErr := read(out)
	_, _ = io.Copy(io.Discard, out) // or apt would wait for a reader
	err = cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fault.Errorf(fault.Source, "%s: %s", name, aptErrors(stderr.String(), err))
	}
	return readErr
}

// aptErrors picks the lines of apt's that say what is wrong.
func aptErrors(stderr string, err error) string {
	var out []string
	for line := range strings.Lines(stderr) {
		if text, ok := strings.CutPrefix(line, "E: "); ok {
			out = append(out, strings.TrimSpace(text))
		}
	}
	if len(out) == 0 {
		return err.Error()
	}
	return strings.Join(out, "; ")
}

// lists returns the lists of a suite, downloaded within listsAge, or in this
// run if fresh is set.
func (a *apt) lists(ctx context.Context, types, suite string, fresh bool) (lists, error) {
	archives, err := a.archives()
	if err != nil {
		return lists{}, err
	}
	var text strings.Builder
	for _, ar := range archives {
		if ar.Security == strings.HasSuffix(suite, "-security") {
			fmt.Fprintf(&text, "%s\n", ar.text(types, suite))
		}
	}
	if text.Len() == 0 {
		return lists{}, fault.Errorf(fault.Environment, "the apt of this machine has no archive for the suite %s in %s", suite, a.etc)
	}
	key := types + "-" + suite
	l := lists{apt: a, root: filepath.Join(a.dir, key+"-"+store.FromBytes([]byte(text.String())).Hex()[:12])}

	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fresh[l.root] {
		return l, nil
	}
	for _, d := range []string{"parts", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(l.root, d), 0o755); err != nil {
			return lists{}, store.FullDisk(a.dir, err)
		}
	}
	unlock, err := lockFile(ctx, filepath.Join(l.root, "lock"))
	if err != nil {
		return lists{}, err
	}
	defer unlock()
	stamp := filepath.Join(l.root, "updated")
	if info, err := os.Stat(stamp); err == nil && !fresh && time.Since(info.ModTime()) < listsAge {
		return l, nil
	}
	if err := os.WriteFile(filepath.Join(l.root, "parts", "debian.sources"), []byte(text.String()), 0o644); err != nil {
		return lists{}, store.FullDisk(a.dir, err)
	}
	if err := l.run(ctx, "apt-get", discard, "update", "-qq"); err != nil {
		return lists{}, fmt.Errorf("lists of %s: %w", suite, err)
	}
	if err := os.WriteFile(stamp, nil, 0o644); err != nil {
		return lists{}, store.FullDisk(a.dir, err)
	}
	if err := os.Chtimes(stamp, time.Time{}, time.Now()); err != nil {
		return lists{}, store.FullDisk(a.dir, err)
	}
	a.fresh[l.root] = true
	return l, nil
}

func discard(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// lockFile holds a lock file until the returned function is called.
func lockFile(ctx context.Context, path string) (func(), error) {
	l, err := flock.Open(path)
	if err != nil {
		return nil, store.FullDisk(filepath.Dir(path), err)
	}
	if err := l.Wait(ctx, flock.Exclusive); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return nil, errors.Join(err, l.Close())
	}
	return func() { l.Close() }, nil // nothing was written to it
}
