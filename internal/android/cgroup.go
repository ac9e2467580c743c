package android

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// rootGroups are the roots of the hierarchies that a phone of the years from
// Android 10 on may have mounted. Whoever is in them is in no service's group.
var rootGroups = []string{
	"/sys/fs/cgroup/cgroup.procs",
	"/acct/cgroup.procs",
	"/dev/cg2_bpf/cgroup.procs",
	"/dev/memcg/apps/cgroup.procs",
}

// leaveGroup moves a process, and so whatever it starts from now on, out of the
// cgroup of the service that it was started from. durable says whether that was
// done.
func (r root) leaveGroup(pid int) error {
	var failed []error
	for _, path := range rootGroups {
		f, err := os.OpenFile(r.path(path), os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = f.WriteString(strconv.Itoa(pid))
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return fault.Wrap(fault.Environment, errors.Join(failed...))
}

// durable is nil where the end of a service, such as adbd's, does not end the
// process: it is in none's cgroup. Otherwise it says which.
func (r root) durable(pid string) error {
	text, err := os.ReadFile(r.path("/proc/" + pid + "/cgroup"))
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return durable(string(text))
}

// durable looks for a group of libprocessgroup's: uid_UID/pid_PID, wherever that
// release has them.
func durable(groups string) error {
	for line := range strings.Lines(groups) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		_, path, _ := strings.Cut(rest, ":")
		for _, part := range strings.Split(path, "/") {
			if n, ok := strings.CutPrefix(part, "pid_"); ok {
				if _, err := strconv.Atoi(n); err == nil {
					return fmt.Errorf("it is in the cgroup %s of another service, and ends with that", path)
				}
			}
		}
	}
	return nil
}
