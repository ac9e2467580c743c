package android

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// never is the oom_score_adj of a process that the kernel never ends for memory;
// see proc_pid_oom_score_adj(5). Without it one that comes from adb has -950,
// and one of an app up to 1000.
const never = -1000

// LiftMemlock lets this process and its children lock all memory, as crosvm has
// to under Gunyah and for protected machines: Android's default is 64 KiB.
func LiftMemlock() error {
	most := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &most); err != nil {
		return fault.Errorf(fault.Environment, "the limit of locked memory cannot be lifted: %w", err)
	}
	return nil
}

// protect has the kernel never end processes for memory: this one, and those
// that run machines. It is done again now and then, as others may change it.
// Processes that have ended meanwhile are no error.
func (r root) protect(pids ...int) error {
	var failed []error
	for _, pid := range pids {
		path := r.path(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		text, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(text)) != strconv.Itoa(never) {
			err = os.WriteFile(path, []byte(strconv.Itoa(never)), 0)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return fault.Errorf(fault.Environment, "the kernel may end it when memory runs out: %w", failed[0])
	}
	return nil
}
