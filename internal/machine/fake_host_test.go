package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const fakeSize = 512 << 20

// The fake's balloon is a file: what the guest has now.
func (fakeHV) Balloon(_ context.Context, dir string, size int64) error {
	return os.WriteFile(filepath.Join(dir, "balloon"), strconv.AppendInt(nil, size, 10), 0o600)
}

func (fakeHV) Memory(_ context.Context, dir string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, "balloon"))
	if errors.Is(err, fs.ErrNotExist) {
		return fakeSize, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(b), 10, 64)
}

func (fakeHV) GrowDisk(_ context.Context, _, serial string, _ int64) error {
	if serial != "data" {
		return fault.Errorf(fault.Device, "no disk %q", serial)
	}
	return nil
}

// fakeGuest is an agent.Operator as well.
var _ agent.Operator = (*fakeGuest)(nil)

func (*fakeGuest) Exec(_ context.Context, r agent.ExecRequest, std agent.ExecIO) (int, error) {
	if r.Argv[0] == "missing" {
		return 0, errors.New("missing: no such program")
	}
	in, err := io.ReadAll(std.Stdin)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(std.Stdout, "%s as %s: %s", r.Argv, r.User, in)
	fmt.Fprint(std.Stderr, "complaint")
	return 3, nil
}

func (*fakeGuest) SetSecret(_ context.Context, service, name, value string) error {
	if value != "given" {
		return fmt.Errorf("%s/%s is %d bytes", service, name, len(value))
	}
	return nil
}

func (*fakeGuest) RotateSecret(_ context.Context, service, name string) error {
	if service != "postgresql" || name != "owner" {
		return fs.ErrNotExist
	}
	return nil
}

func (*fakeGuest) RestartService(context.Context, string) error { return nil }
func (*fakeGuest) Metrics(w io.Writer) error                    { _, err := io.WriteString(w, "up 1\n"); return err }
func (*fakeGuest) Grow(context.Context) error                   { return nil }

func (*fakeGuest) Boot() agent.Boot {
	return agent.Boot{Phases: []agent.Phase{{Name: "kernel", EndMS: 800.5}, {Name: "mounts", StartMS: 800.5, EndMS: 820}}}
}
