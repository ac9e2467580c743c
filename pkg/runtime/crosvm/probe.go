package crosvm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// What a crosvm can do differs by build, and an update of Android's
// virtualization module changes it without changing the system's fingerprint. So
// it is asked once for each content of the program and each kernel of the host.

const (
	probeLimit = 10 * time.Second
	maxHelp    = 1 << 20 // bytes
	maxProbed  = 1 << 20 // of the file that keeps it
	keepProbed = 8       // builds
)

// probed is what was found out of one build.
type probed struct {
	// Build names the program's content and the host's kernel.
	Build   string   `json:"build"`
	Version string   `json:"version"`
	Options []string `json:"options"` // of "run", without dashes, sorted
}

// probe asks the program for its options, or takes what was kept.
func (d *Driver) probe(ctx context.Context) (probed, error) {
	build, err := buildOf(d.o.Program)
	if err != nil {
		return probed{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	kept := d.kept()
	if i := slices.IndexFunc(kept, func(p probed) bool { return p.Build == build }); i >= 0 {
		return kept[i], nil
	}
	p := probed{Build: build}
	help, err := d.output(ctx, "run", "--help")
	if err != nil {
		return p, err
	}
	if p.Options = helpOptions(help); len(p.Options) == 0 {
		return p, fault.Errorf(fault.Device, "%s run --help lists no options: it is no crosvm", d.o.Program)
	}
	// Old ones have no such command, and nothing depends on it.
	if version, err := d.output(ctx, "version"); err == nil {
		p.Version = strings.TrimPrefix(strings.TrimSpace(string(version)), "crosvm ")
	}
	kept = append([]probed{p}, kept...)
	text, err := json.MarshalIndent(kept[:min(len(kept), keepProbed)], "", "  ")
	if err != nil {
		return p, err
	}
	return p, atomicfile.Write(d.cacheFile(), append(text, '\n'), 0o600)
}

// kept reads what was found out before. What cannot be read is found out anew.
func (d *Driver) kept() []probed {
	f, err := os.Open(d.cacheFile())
	if err != nil {
		return nil
	}
	defer f.Close()
	var all []probed
	if json.NewDecoder(io.LimitReader(f, maxProbed)).Decode(&all) != nil {
		return nil
	}
	return all
}

// forget has the program asked again: it did not know an option that it had.
func (d *Driver) forget() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Remove(d.cacheFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(fault.Environment, err)
	}
	return nil
}

func (d *Driver) output(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.o.Program, args...)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{w: &out, left: maxHelp}, &limited{w: &errs, left: maxHelp}
	if err := cmd.Run(); err != nil {
		return nil, fault.Errorf(fault.Device, "%s %s: %w: %.200s", d.o.Program, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.Bytes(), nil
}

// limited keeps the beginning of what is written.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if _, err := l.w.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// helpLine is an option's in the help that argh prints: two spaces, perhaps the
// short one, and the long one.
var helpLine = regexp.MustCompile(`(?m)^ {2}(?:-[a-zA-Z], )?--([a-z0-9][a-z0-9-]*)(?:\s|$)`)

// helpOptions are the options that a help text lists, sorted.
func helpOptions(help []byte) []string {
	var list []string
	for _, m := range helpLine.FindAllSubmatch(help, -1) {
		list = append(list, string(m[1]))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// buildOf names the content of the program and the kernel that it runs on.
func buildOf(program string) (string, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", fault.Errorf(fault.Environment, "crosvm: %w", err).
			Hintf("this device has none there; Android has it in %s where it can run machines", AndroidProgram)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	h.Write(uts.Release[:])
	h.Write(uts.Version[:])
	return hex.EncodeToString(h.Sum(nil)), nil
}
