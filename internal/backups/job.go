package backups

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// endLimit is how long the program may take to end when it was told to.
const endLimit = 10 * time.Second

// findProgram returns the path of sovereign-backup: beside this program, else in
// PATH.
func findProgram() (string, error) {
	path, err := process.FindProgram(backupjob.Program)
	if err != nil {
		return "", fault.Errorf(fault.Environment, "%s is neither beside sovereignd nor in PATH", backupjob.Program).
			Hintf("build it with make, and put it beside sovereignd")
	}
	return path, nil
}

// talk is what a run of the program is told and tells.
type talk struct {
	progress func(done, total int64)
	// agree answers for a disk that has been read.
	agree func(context.Context) backupjob.Answer
}

// run starts the program for a job and waits for its end.
func (m *Manager) run(ctx context.Context, j backupjob.Job, t talk) (*backupjob.Result, error) {
	program, err := m.program()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	// With this program it ends, even when that is killed.
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = endLimit
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	complaint := &last{limit: 4 << 10}
	cmd.Stderr = complaint
	if err := startProcess(cmd); err != nil {
		return nil, fault.Errorf(fault.Environment, "starting %s: %w", program, err)
	}
	result, talkErr := converse(ctx, in, out, j, t)
	in.Close()
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case talkErr != nil && !errors.Is(talkErr, errSilent):
		return nil, talkErr
	case result != nil && waitErr == nil:
		return result, nil
	}
	why := fmt.Sprint(waitErr)
	if text := strings.TrimSpace(complaint.String()); text != "" {
		why += ": " + printable.Line(text)
	}
	return nil, fault.Errorf(fault.Environment, "%s ended without a result (%s)", backupjob.Program, why).
		Hintf("try again: what it has sent is not sent again")
}

// errSilent: the program ended without its last line.
var errSilent = errors.New("it said nothing more")

func converse(ctx context.Context, in io.Writer, out io.Reader, j backupjob.Job, t talk) (*backupjob.Result, error) {
	words := json.NewEncoder(in)
	if err := words.Encode(j); err != nil {
		return nil, errSilent // its end says why
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(make([]byte, 0, 64<<10), backupjob.MaxLine)
	for lines.Scan() {
		said, err := backupjob.ParseSaid(lines.Bytes())
		switch {
		case err != nil:
			return nil, err
		case said.Error != nil:
			return nil, said.Error.Err()
		case said.Result != nil:
			return said.Result, nil
		case said.Read:
			answer := backupjob.Answer{Abort: "nobody knows whether the disk was still"}
			if t.agree != nil {
				answer = t.agree(ctx)
			}
			if err := words.Encode(answer); err != nil {
				return nil, errSilent
			}
		case t.progress != nil:
			t.progress(said.Done, said.Total)
		}
	}
	return nil, errors.Join(errSilent, lines.Err())
}

// last keeps the end of what is written to it.
type last struct {
	limit int
	text  []byte
}

func (l *last) Write(b []byte) (int, error) {
	l.text = append(l.text, b...)
	if n := len(l.text) - l.limit; n > 0 {
		l.text = append(l.text[:0], l.text[n:]...)
	}
	return len(b), nil
}

func (l *last) String() string { return string(l.text) }
