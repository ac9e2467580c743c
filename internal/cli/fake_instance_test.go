package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

func (f *fake) Names() ([]string, error) { return []string{"forge", "sql"}, f.err }

func (f *fake) Instance(_ context.Context, name string) (Instance, error) {
	if name != "sql" {
		return nil, fault.Errorf(fault.Usage, "there is no instance %q", name)
	}
	return &fakeInstance{fake: f}, f.err
}

// fakeInstance keeps what it was asked in fake.calls.
type fakeInstance struct{ *fake }

func (i *fakeInstance) call(format string, args ...any) {
	i.calls = append(i.calls, fmt.Sprintf(format, args...))
}

func (*fakeInstance) Name() string              { return "sql" }
func (*fakeInstance) Bundle() runtime.BundleRef { return runtime.BundleRef{Path: "dist/sql-amd64"} }

func (*fakeInstance) Manifest() *bundle.Manifest {
	return &bundle.Manifest{Ports: []bundle.Port{{Name: "postgresql", Service: "postgresql", Port: 5432, URL: "x"}, {Name: "metrics", Port: 9187}}}
}

func (*fakeInstance) URL(_ context.Context, port int) (string, error) {
	return fmt.Sprintf("postgres://postgres:secret@127.0.0.1:40001/%d", port), nil
}

// Exec knows three programs: cat, one that fails with 7, and one that is
// missing.
func (i *fakeInstance) Exec(ctx context.Context, r agent.ExecRequest, std agent.ExecIO) (int, error) {
	i.call("exec %q as %q in %q with %v", r.Argv, r.User, r.Dir, r.Env)
	switch r.Argv[0] {
	case "missing":
		return 0, fault.Errorf(fault.Device, "no program missing")
	case "fails":
		fmt.Fprint(std.Stderr, "it fails")
		return 7, nil
	case "hangs":
		<-ctx.Done()
		return 0, ctx.Err()
	}
	if std.Stdin == nil {
		_, err := io.WriteString(std.Stdout, "no input\n")
		return 0, err
	}
	_, err := io.Copy(std.Stdout, std.Stdin)
	return 0, err
}

func (*fakeInstance) Boot(context.Context) (agent.Boot, error) {
	return agent.Boot{Phases: []agent.Phase{{Name: "kernel", EndMS: 800}, {Name: "postgresql: setup", StartMS: 800, EndMS: 1000}}}, nil
}

func (*fakeInstance) LogNames() []string { return []string{"init", "postgresql"} }

func (i *fakeInstance) Logs(ctx context.Context, services []string, follow bool, line func(runtime.LogLine) error) error {
	i.call("logs %v %v", services, follow)
	return errors.Join(line(runtime.LogLine{Service: "init", Text: "up"}), line(runtime.LogLine{Service: "postgresql", Text: "\x1b[31mready"}))
}

func (i *fakeInstance) Secrets() []runtime.SecretRef {
	refs := []runtime.SecretRef{{Service: "postgresql", Name: "password"}}
	if i.manySecrets {
		refs = append(refs, runtime.SecretRef{Service: "forge", Name: "token"})
	}
	return refs
}

func (*fakeInstance) Secret(_ context.Context, ref runtime.SecretRef) (string, error) {
	return "value of " + ref.Name, nil
}

func (i *fakeInstance) SetSecret(_ context.Context, ref runtime.SecretRef, value string) error {
	i.call("set %v %q", ref, value)
	return nil
}

func (i *fakeInstance) RotateSecret(_ context.Context, ref runtime.SecretRef) error {
	i.call("rotate %v", ref)
	return nil
}

func (*fakeInstance) Memory(context.Context) (runtime.Memory, error) {
	return runtime.Memory{Now: 512 << 20, Max: 512 << 20}, nil
}

func (i *fakeInstance) Balloon(_ context.Context, size int64) (runtime.Memory, error) {
	i.call("balloon %d", size)
	return runtime.Memory{Now: size, Max: 512 << 20}, nil
}

func (i *fakeInstance) Grow(_ context.Context, size int64) (runtime.Grown, error) {
	i.call("grow %d", size)
	return runtime.Grown{Before: 8 << 30, Size: size, Online: size < 32<<30}, nil
}

// Console says hello, and ends when it hears "off".
func (*fakeInstance) Console(context.Context) (io.ReadWriteCloser, error) {
	ours, guests := net.Pipe()
	go func() {
		defer guests.Close()
		if _, err := io.WriteString(guests, "hello\r\n"); err != nil {
			return
		}
		var heard strings.Builder
		buf := make([]byte, 64)
		for !strings.Contains(heard.String(), "off") {
			n, err := guests.Read(buf)
			if err != nil {
				return
			}
			heard.Write(buf[:n])
		}
	}()
	return ours, nil
}

func (*fakeInstance) ConsoleTail(int) string { return "the last lines" }
