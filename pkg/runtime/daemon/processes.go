package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func (d *daemon) getProcesses(w http.ResponseWriter, r *http.Request) {
	p, err := d.hostProcesses(r.Context())
	answer(w, p, err)
}

// hostProcesses looks at this process and at the machines'. A machine that ends
// meanwhile is left out.
func (d *daemon) hostProcesses(ctx context.Context) (runtime.HostProcesses, error) {
	h := runtime.HostProcesses{Android: d.o.Guard != nil}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return h, fault.Wrap(fault.Environment, err)
	}
	h.System = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	// Below an app, in Termux say, it is Android too.
	if _, err := os.Stat("/system/build.prop"); err == nil {
		h.Android = true
	}
	self, err := readProcess("/proc", os.Getpid())
	if err != nil {
		return h, err
	}
	h.Processes = append(h.Processes, self)
	all, err := d.r.List(ctx)
	if err != nil {
		return h, err
	}
	for _, s := range all {
		if s.PID == 0 {
			continue
		}
		p, err := readProcess("/proc", s.PID)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return h, err
		}
		p.Machine = s.Name
		h.Processes = append(h.Processes, p)
	}
	return h, nil
}

// readProcess reads what proc has of a process.
func readProcess(proc string, pid int) (p runtime.HostProcess, err error) {
	p.PID = pid
	dir := filepath.Join(proc, strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(dir, "oom_score_adj"))
	if err == nil {
		p.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return p, fault.Errorf(fault.Environment, "process %d: %w", pid, err)
	}
	groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return p, fault.Wrap(fault.Environment, fmt.Errorf("process %d: %w", pid, err))
	}
	for line := range strings.Lines(string(groups)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			p.Cgroup = path
		}
	}
	return p, nil
}
