package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// goRun is one use of the machine's go command: always as the client of the
// module proxy, never as a compiler.
type goRun struct {
	f        *Fetcher
	dir      string   // working directory
	modCache string   // GOMODCACHE
	env      []string // further KEY=VALUE
	// proxiesOnly leaves out the module cache that the machine has.
	proxiesOnly bool
}

// run returns the command's standard output. The user's GOPROXY, GOSUMDB,
// GOPRIVATE and the like are respected; what would change the outcome is not.
func (g goRun) run(ctx context.Context, args ...string) ([]byte, error) {
	proxy, err := g.proxy(ctx)
	if err != nil {
		return nil, err
	}
	cmd := g.command(ctx, args...)
	cmd.Env = append(cmd.Env, "GOPROXY="+proxy)
	cmd.Env = append(cmd.Env, g.env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return nil, fault.Errorf(fault.Environment, "go: %w", err).Hintf("install Go 1.26 or newer")
	case err != nil && strings.Contains(stderr.String(), "SECURITY ERROR"):
		text, _, _ := strings.Cut(stderr.String(), "SECURITY ERROR")
		return nil, fault.Errorf(fault.Verification, "go %s in %s: %s", args[0], g.dir, strings.Join(strings.Fields(text), " "))
	case err != nil:
		return stdout.Bytes(), fault.Errorf(fault.Source, "go %s in %s: %s", args[0], g.dir, goErrors(stderr.String(), err))
	}
	return stdout.Bytes(), nil
}

func (g goRun) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, g.f.goCmd, args...)
	cmd.Dir = g.dir
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=-mod=readonly -modcacherw",
		"GO111MODULE=on", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOMODCACHE="+g.modCache)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// proxy puts the module cache that the machine already has in front of the
// user's proxies: on a machine that has compiled this program most modules are
// there, and go.sum verifies them from wherever they come.
func (g goRun) proxy(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, g.f.goCmd, "env", "GOMODCACHE", "GOPROXY")
	cmd.Dir = g.dir
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local")
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fault.Errorf(fault.Environment, "%s env: %w", g.f.goCmd, err).Hintf("install Go 1.26 or newer")
	}
	lines := strings.Split(string(out), "\n")
	if len(lines) < 2 {
		return "", fault.Errorf(fault.Environment, "%s env printed %q", g.f.goCmd, out)
	}
	var proxies []string
	if local := filepath.Join(lines[0], "cache", "download"); filepath.IsAbs(local) && !g.proxiesOnly {
		proxies = append(proxies, "file://"+filepath.ToSlash(local))
	}
	if g.f.offline {
		proxies = append(proxies, "off")
	} else if lines[1] != "" {
		proxies = append(proxies, lines[1])
	}
	return strings.Join(proxies, ","), nil
}

// goErrors shortens what go wrote to its last lines.
func goErrors(stderr string, err error) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	if stderr == "" {
		return err.Error()
	}
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// goDownload is one object that go mod download -json prints.
type goDownload struct {
	Path, Version, Zip, Sum, Error string
}

// parseDownloads reads the objects of go mod download -json.
func parseDownloads(b []byte) ([]goDownload, error) {
	var out []goDownload
	for d := json.NewDecoder(bytes.NewReader(b)); ; {
		var m goDownload
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("go mod download: %w", err)
		}
		out = append(out, m)
	}
}

// goneFromProxy says whether go's message means that the proxy answered and
// has no such version.
func goneFromProxy(text string) bool {
	return strings.Contains(text, "404 Not Found") || strings.Contains(text, "410 Gone") || strings.Contains(text, "unknown revision") ||
		strings.Contains(text, "module version is not available")
}
