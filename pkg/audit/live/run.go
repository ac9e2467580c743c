package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// machine is what is asked of a *runtime.Machine, and daemon of a *runtime.Host.
type machine interface {
	Exec(ctx context.Context, r agent.ExecRequest, std agent.ExecIO) (code int, err error)
	Status(ctx context.Context) (runtime.Status, error)
	Watch(ctx context.Context, each func(runtime.Event) error) error
	Logs(ctx context.Context, services []string, follow bool, line func(runtime.LogLine) error) error
	Freeze(ctx context.Context, limit time.Duration) error
	Thaw(ctx context.Context) error
}

type daemon interface {
	Info(ctx context.Context) (runtime.HostInfo, error)
	Processes(ctx context.Context) (runtime.HostProcesses, error)
}

var (
	_ machine = (*runtime.Machine)(nil)
	_ daemon  = (*runtime.Host)(nil)
)

const (
	// maxOutput bounds what a probe takes from the guest, in bytes: the heads of
	// a few hundred programs, and the log of a kernel.
	maxOutput = 16 << 20
	// maxComplaint bounds what is kept of a program's standard error.
	maxComplaint = 4 << 10
)

var errTooMuch = errors.New("the guest's answer is too long")

// limited takes so many bytes, and then no more; what is lossy goes on without
// them.
type limited struct {
	kept  bytes.Buffer
	most  int
	lossy bool
}

func (l *limited) Write(b []byte) (int, error) {
	if room := l.most - l.kept.Len(); len(b) > room {
		if !l.lossy {
			return 0, errTooMuch
		}
		l.kept.Write(b[:room])
		return len(b), nil
	}
	return l.kept.Write(b)
}

// run runs a program in the guest as root, and returns what it printed. One that
// ends with another code than 0 is an error with the last line that it said.
func (l *look) run(ctx context.Context, argv ...string) ([]byte, error) {
	out, _, err := l.exec(ctx, agent.ExecRequest{Argv: argv})
	return out, err
}

func (l *look) exec(ctx context.Context, r agent.ExecRequest) (stdout, stderr []byte, err error) {
	out, complaint := &limited{most: maxOutput}, &limited{most: maxComplaint, lossy: true}
	code, err := l.machine.Exec(ctx, r, agent.ExecIO{Stdout: out, Stderr: complaint})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, nil, context.Cause(ctx)
	case err != nil:
		return nil, nil, err
	case code != 0:
		return nil, nil, fmt.Errorf("%s in the guest ended with exit code %d: %s", r.Argv[0], code, lastLine(complaint.kept.Bytes()))
	}
	return out.kept.Bytes(), complaint.kept.Bytes(), nil
}

// something is what run printed, where nothing at all would be no answer.
func (l *look) something(ctx context.Context, argv ...string) ([]byte, error) {
	out, err := l.run(ctx, argv...)
	if err == nil && len(bytes.TrimSpace(out)) == 0 {
		err = fmt.Errorf("%s in the guest said nothing", strings.Join(argv, " "))
	}
	return out, err
}

// shell runs a script of the guest's shell; args are its positional parameters.
func (l *look) shell(ctx context.Context, script string, args ...string) ([]byte, error) {
	return l.run(ctx, append([]string{"sh", "-c", script, "audit"}, args...)...)
}

// lastLine is the last line with anything in it, fit for a message.
func lastLine(text []byte) string {
	line := ""
	for l := range strings.Lines(string(text)) {
		if l = strings.TrimSpace(printable.Line(strings.TrimRight(l, "\r\n"))); l != "" {
			line = l
		}
	}
	if line == "" {
		return "it said nothing"
	}
	return line
}

func (l *look) words(ctx context.Context, argv ...string) audit.Known[[]string] {
	out, err := l.something(ctx, argv...)
	return audit.Look(strings.Fields(string(out)), err)
}

func (l *look) number(ctx context.Context, file string) audit.Known[int] {
	out, err := l.run(ctx, "cat", file)
	if err != nil {
		return audit.Unseen[int]("%v", err)
	}
	return audit.Look(strconv.Atoi(strings.TrimSpace(string(out))))
}
