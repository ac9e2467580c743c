package doctor

import (
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/runtime/qemu"
)

// host is what the checks look at.
type host struct {
	arch    string
	uid     int
	meminfo string // file
	look    func(program string) (path string, err error)
	statfs  func(path string) (unix.Statfs_t, error)
	needs   func(address string) ([]engine.Need, error)
	// daemon finds sovereignd.
	daemon func() (path string, err error)
	// qemu keeps what it finds out in a directory of the caller's.
	driver func(cacheDir string) hypervisor
}

func thisHost() host {
	return host{
		arch:    runtime.GOARCH,
		uid:     unix.Getuid(),
		meminfo: "/proc/meminfo",
		look:    look,
		statfs: func(path string) (st unix.Statfs_t, err error) {
			err = unix.Statfs(path, &st)
			return st, err
		},
		needs:  func(address string) ([]engine.Need, error) { return engine.Needs(engine.WithAddress(address)) },
		daemon: sovereignd.Find,
		driver: func(cacheDir string) hypervisor { return qemu.New(cacheDir) },
	}
}

// look is exec.LookPath that also knows the directories that Debian keeps out
// of an ordinary user's PATH.
func look(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// existing is path or the nearest directory above it that there is.
func existing(path string, statfs func(string) (unix.Statfs_t, error)) (string, unix.Statfs_t, error) {
	for {
		st, err := statfs(path)
		if err == nil || filepath.Dir(path) == path {
			return path, st, err
		}
		path = filepath.Dir(path)
	}
}
