package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A Command is a program to start in the background.
type Command struct {
	Path string
	Args []string // without the program's name
	// Env is added to Environment, "NAME=value".
	Env []string
	Dir string
	// Log takes its output, appended.
	Log string
	// Output takes its standard output instead, appended; "" is Log.
	Output string
	// Lock is a file that is made if absent, and that the process keeps
	// locked from before its first instruction until its end: whoever is
	// killed before it could write down what it started leaves at least this
	// trace. Empty: none.
	Lock string
	// Files are open in the process too, from descriptor FirstFile on.
	Files []*os.File
	// Ended is told how the process ended, once, if this program is still there
	// to see it; nobody else ever learns that. nil: it does not matter, and a
	// process that has ended before Start returns is an error of Start's.
	Ended func(*os.ProcessState)
	// OOMScoreAdj is how much likelier (1000) or less likely (-1000) than others
	// the kernel ends the process when memory runs out; 0: as this one. Less than
	// this one's takes CAP_SYS_RESOURCE. See proc_pid_oom_score_adj(5).
	OOMScoreAdj int
}

// FirstFile is the descriptor of the first of a Command's Files.
const FirstFile = 3

// Environment is what a program in the background gets of this program's
// environment. The rest, in which there may be secrets, is nobody's business for
// as long as a machine runs: any process of this user can read it in /proc.
func Environment() []string {
	var env []string
	for _, name := range []string{
		"PATH",            // sovereignd looks for QEMU in it
		"LD_LIBRARY_PATH", // of a QEMU that is not the system's
	} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// Start starts a program that goes on when this one ends: in a session of its
// own, with /dev/null as its input and c.Log as its output, none of this
// program's files but c.Files, and of its environment what every program needs.
// Where another process has c.Lock, nothing is started (fault.Environment).
func Start(c Command) (Process, error) {
	boot, err := Boot()
	if err != nil {
		return Process{}, err
	}
	log, err := os.OpenFile(c.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return Process{}, fault.Wrap(fault.Environment, err)
	}
	defer log.Close()
	output := log
	if c.Output != "" {
		if output, err = os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return Process{}, fault.Wrap(fault.Environment, err)
		}
		defer output.Close()
	}
	// Not CommandContext: the process must outlive the caller.
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append(Environment(), c.Env...)
	cmd.ExtraFiles = slices.Clone(c.Files) // from descriptor 3 on
	if c.Lock != "" {
		lock, err := hold(c.Lock)
		if err != nil {
			return Process{}, err
		}
		// The lock is the open file's, which the process gets too.
		defer lock.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, lock)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, output, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return Process{}, fault.Errorf(fault.Environment, "starting %s: %w", c.Path, err)
	}
	adjustErr := adjust(cmd.Process.Pid, c.OOMScoreAdj)
	if adjustErr != nil {
		adjustErr = errors.Join(adjustErr, cmd.Process.Kill())
	}
	stat, err := ReadStat(cmd.Process.Pid)
	// Reap it if it ends before this program does.
	go func() {
		_ = cmd.Wait() // what it says is in the state
		if c.Ended != nil {
			c.Ended(cmd.ProcessState)
		}
	}()
	if adjustErr != nil {
		return Process{}, fault.Errorf(fault.Environment, "starting %s: %w", c.Path, adjustErr)
	}
	if err != nil || stat.Over && c.Ended == nil {
		return Process{}, fault.Errorf(fault.Device, "%s ended at once", c.Path).Hintf("read %s", c.Log)
	}
	return Process{PID: cmd.Process.Pid, Start: stat.Start, Boot: boot}, nil
}

// adjust sets how likely the kernel is to end a process for its memory.
func adjust(pid, score int) error {
	if score == 0 {
		return nil
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score)), 0)
}
