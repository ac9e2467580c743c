package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stat is what proc_pid_stat(5) says of a process. A process is not over when
// its first thread is: the others may hold its files and sockets a while longer,
// with the process already shown as a zombie.
type Stat struct {
	// Start is when it started, in clock ticks since boot.
	Start uint64
	// Over is true when only its exit status is left: a zombie without other
	// threads, whose files are closed.
	Over bool
}

// ReadStat looks at a process. One that is gone altogether is fs.ErrNotExist.
func ReadStat(pid int) (Stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err) // it ended between open and read
	}
	if err != nil {
		return Stat{}, err
	}
	return parse(string(b))
}

// Alive says whether the process with this number and start time is not over.
func Alive(pid int, start uint64) (bool, error) {
	if pid <= 0 {
		return false, nil
	}
	s, err := ReadStat(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && s.Start == start && !s.Over, err
}

// parse reads the line. Its second field is the program's name in parentheses
// and may itself hold blanks and parentheses.
func parse(line string) (Stat, error) {
	// Numbers of the fields after the name, which are 3 less in proc(5).
	const state, threads, start = 0, 20 - 3, 22 - 3
	name := strings.LastIndexByte(line, ')')
	fields := strings.Fields(line[name+1:])
	if name < 0 || len(fields) <= start || len(fields[state]) != 1 {
		return Stat{}, fmt.Errorf("/proc/PID/stat holds %q", line)
	}
	n, err := strconv.Atoi(fields[threads])
	if err != nil {
		return Stat{}, fmt.Errorf("/proc/PID/stat: threads: %w", err)
	}
	s := Stat{Over: n <= 1 && strings.Contains("ZX", fields[state])}
	if s.Start, err = strconv.ParseUint(fields[start], 10, 64); err != nil {
		return Stat{}, fmt.Errorf("/proc/PID/stat: start time: %w", err)
	}
	return s, nil
}
