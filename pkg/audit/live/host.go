package live

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/audit"
)

// lookAtHost looks at the processes of a host that is this computer. Of another
// one only its own sovereignd could tell.
func lookAtHost(ctx context.Context, h daemon, hypervisor int, here bool) audit.Known[audit.Host] {
	info, err := h.Info(ctx)
	switch {
	case err != nil:
		return audit.Unseen[audit.Host]("%v", err)
	case !here:
		return audit.Unseen[audit.Host]("it is another computer, whose sovereignd does not tell of its processes")
	}
	return audit.Look(readHost("/", info.PID, hypervisor))
}

// readHost reads /proc below root.
func readHost(root string, daemon, hypervisor int) (audit.Host, error) {
	var h audit.Host
	switch _, err := os.Stat(filepath.Join(root, "system/build.prop")); {
	case err == nil:
		return h, errors.New("this is an Android, whose sovereignd has to tell")
	case !errors.Is(err, fs.ErrNotExist):
		return h, err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return h, err
	}
	h.System = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	for _, p := range []audit.Process{{Role: "sovereignd", PID: daemon}, {Role: "hypervisor", PID: hypervisor}} {
		dir := filepath.Join(root, "proc", strconv.Itoa(p.PID))
		text, err := os.ReadFile(filepath.Join(dir, "oom_score_adj"))
		if err != nil {
			return h, fmt.Errorf("%s: %w", p.Role, err)
		}
		if p.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			return h, fmt.Errorf("%s: %w", p.Role, err)
		}
		groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil {
			return h, fmt.Errorf("%s: %w", p.Role, err)
		}
		p.Cgroup = "no control group"
		for line := range strings.Lines(string(groups)) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
				p.Cgroup = path
			}
		}
		h.Processes = append(h.Processes, p)
	}
	return h, nil
}
