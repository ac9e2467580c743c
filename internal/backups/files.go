package backups

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// filesPrefix begins the name of the machine that files are read in.
const filesPrefix = "files-"

// mountLimit is how long its guest may take until its data disk is there.
const mountLimit = readyLimit

// maxPaths bounds the files and directories of one request.
const maxPaths = 1000

// Files writes files and directories of a backup to w, by absolute paths in the
// guest, as a tar archive. The backup is started as a machine without a network
// that is nobody's: no program of the host reads the guest's file system. begin
// is called when there is nothing left that could be said as an error, and
// returns where the archive goes.
func (m *Manager) Files(ctx context.Context, q Restore, paths []string, begin func() (io.WriteCloser, error)) (err error) {
	if len(paths) == 0 || len(paths) > maxPaths {
		return fault.Errorf(fault.Usage, "%d paths are not from 1 to %d", len(paths), maxPaths)
	}
	for _, p := range paths {
		if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) {
			return fault.Errorf(fault.Usage, "%q is no absolute path in the guest", p)
		}
	}
	end, err := m.temporary(ctx, &q, "the files of ", filesPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if _, err := m.restoreNew(ctx, q, true); err != nil {
		return err
	}
	guest := m.o.Host.Machine(q.As)
	if err := guest.Up(ctx, runtime.UpOptions{Restart: runtime.RestartNever}, nil); err != nil {
		return err
	}
	if err := waitMounted(ctx, guest); err != nil {
		return err
	}
	return archive(ctx, guest, paths, begin)
}

// waitMounted waits for the guest's data disk; of its services nothing is
// needed.
func waitMounted(ctx context.Context, m *runtime.Machine) error {
	ctx, cancel := context.WithTimeoutCause(ctx, mountLimit, fault.Errorf(fault.Device, "the guest of the backup did not mount its disk within %v", mountLimit))
	defer cancel()
	mounted := errors.New("mounted")
	err := m.Watch(ctx, func(e runtime.Event) error {
		switch s := e.Status; {
		case s == nil:
			return nil
		case s.Guest != nil && s.Guest.Data != nil:
			return mounted
		case s.Guest != nil && s.Guest.State == agent.StateFailed:
			return fault.Errorf(fault.Device, "the guest of the backup failed: %s", s.Guest.Message)
		case s.State == runtime.Exited || s.State == runtime.GaveUp:
			return fault.Errorf(fault.Device, "the machine of the backup ended: %s", s.Message)
		}
		return nil
	})
	if errors.Is(err, mounted) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// archive has the guest's tar write to where begin says, when that has found
// the files.
func archive(ctx context.Context, m *runtime.Machine, paths []string, begin func() (io.WriteCloser, error)) error {
	var complaint bytes.Buffer
	// It names what is not there, and nothing has been sent by then.
	code, err := m.Exec(ctx, agent.ExecRequest{Argv: append([]string{"ls", "-d", "--"}, paths...)}, agent.ExecIO{Stderr: &complaint})
	if err != nil {
		return err
	}
	if code != 0 {
		return fault.Errorf(fault.Usage, "the backup has not all of that: %s", strings.TrimSpace(complaint.String()))
	}
	relative := []string{"tar", "-C", "/", "-cf", "-", "--"}
	for _, p := range paths {
		relative = append(relative, "."+p)
	}
	out, err := begin()
	if err != nil {
		return err
	}
	complaint.Reset()
	code, err = m.Exec(ctx, agent.ExecRequest{Argv: relative}, agent.ExecIO{Stdout: out, Stderr: &complaint})
	if err == nil && code != 0 {
		err = fmt.Errorf("tar ended with %d: %s", code, strings.TrimSpace(complaint.String()))
	}
	if err != nil {
		return err // its reader sees that it was cut off
	}
	return out.Close()
}
