package machinetest

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

const MemorySize = 512 << 20

// The fake's balloon is a file: what the guest has now.
func (HV) Balloon(_ context.Context, dir string, size int64) error {
	return os.WriteFile(filepath.Join(dir, "balloon"), strconv.AppendInt(nil, size, 10), 0o600)
}

func (HV) Memory(_ context.Context, dir string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, "balloon"))
	if errors.Is(err, fs.ErrNotExist) {
		return MemorySize, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(b), 10, 64)
}

func (HV) GrowDisk(_ context.Context, _, serial string, _ int64) error {
	if serial != "data" {
		return fault.Errorf(fault.Device, "no disk %q", serial)
	}
	return nil
}

// guest is an agent.Operator as well.
var _ agent.Operator = (*guest)(nil)

func (*guest) Exec(_ context.Context, r agent.ExecRequest, std agent.ExecIO) (int, error) {
	switch r.Argv[0] {
	case "missing":
		return 0, errors.New("missing: no such program")
	case "cat":
		return cat(std)
	}
	in, err := io.ReadAll(std.Stdin)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(std.Stdout, "%s as %s: %s", r.Argv, r.User, in)
	fmt.Fprint(std.Stderr, "complaint")
	return 3, nil
}

// cat writes down in CatFile how much it read, and whether that was all.
func cat(std agent.ExecIO) (int, error) {
	n, err := io.Copy(std.Stdout, std.Stdin)
	f, openErr := os.OpenFile(CatFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if openErr != nil {
		return 0, openErr
	}
	_, writeErr := fmt.Fprintf(f, "%d %v\n", n, err == nil)
	return 0, errors.Join(err, writeErr, f.Close())
}

// CatFile is in a machine's directory.
const CatFile = "cat"

func (*guest) SetSecret(_ context.Context, service, name, value string) error {
	if value != "given" {
		return fmt.Errorf("%s/%s is %d bytes", service, name, len(value))
	}
	return nil
}

func (*guest) RotateSecret(_ context.Context, service, name string) error {
	if service != "postgresql" || name != "owner" {
		return fs.ErrNotExist
	}
	return nil
}

func (*guest) RestartService(context.Context, string) error { return nil }
func (*guest) Metrics(w io.Writer) error                    { _, err := io.WriteString(w, "up 1\n"); return err }
func (*guest) Grow(context.Context) error                   { return nil }

func (*guest) Boot() agent.Boot {
	return agent.Boot{Phases: []agent.Phase{{Name: "kernel", EndMS: 800.5}, {Name: "mounts", StartMS: 800.5, EndMS: 820}}}
}
