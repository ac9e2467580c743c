package initd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// sysctl is a setting of the running kernel, by its path below /proc/sys. A *
// stands for every network device, those that come later (default) too.
type sysctl struct{ name, value string }

// sysctls narrow what a service that was taken over can do to the kernel, and
// to others. None of them is needed by a program of ours; a kernel that lacks
// one lacks what it limits.
func sysctls() []sysctl {
	return []sysctl{
		// In a user namespace everybody is root, and the kernel has no larger
		// surface than what that opens: nf_tables above all.
		{"user/max_user_namespaces", "0"},
		// A way to do most system calls past every filter, and young code.
		// PostgreSQL 17 has no use for it.
		{"kernel/io_uring_disabled", "2"},
		// No process reads another's memory, of the same user either; root may,
		// who looks for a fault.
		{"kernel/yama/ptrace_scope", "2"},
		// Addresses of the kernel are what an attack on it lacks.
		{"kernel/kptr_restrict", "2"},
		{"kernel/dmesg_restrict", "1"},
		// Also where programs' heaps lie differs from start to start.
		{"kernel/randomize_va_space", "2"},
		// No memory at addresses that a mistake with a null pointer reaches.
		{"vm/mmap_min_addr", "65536"},
		// In /tmp nobody has another follow a link, open a pipe or write a file
		// that is not the other's own; and no user keeps a name for a file that
		// is not the user's.
		{"fs/protected_symlinks", "1"},
		{"fs/protected_hardlinks", "1"},
		{"fs/protected_fifos", "2"},
		{"fs/protected_regular", "2"},
		// No process types into the terminal of somebody's exec.
		{"dev/tty/legacy_tiocsti", "0"},
		// The machine has one gateway, and nobody on the link tells it another.
		{"net/ipv4/conf/*/accept_redirects", "0"},
		{"net/ipv4/conf/*/send_redirects", "0"},
		{"net/ipv4/conf/*/accept_source_route", "0"},
		{"net/ipv6/conf/*/accept_redirects", "0"},
		// Half-open connections cannot fill the server's queue.
		{"net/ipv4/tcp_syncookies", "1"},
		// A reset cannot end a connection that is only waiting for its last
		// packets (RFC 1337).
		{"net/ipv4/tcp_rfc1337", "1"},
	}
}

// setSysctls writes them below root, which is /proc/sys.
func setSysctls(root string, list []sysctl) (err error) {
	for _, s := range list {
		paths, globErr := filepath.Glob(filepath.Join(root, s.name))
		err = errors.Join(err, globErr)
		for _, path := range paths {
			if writeErr := writeExisting(path, s.value); writeErr != nil {
				err = errors.Join(err, fmt.Errorf("kernel setting %s=%s: %w", s.name, s.value, writeErr))
			}
		}
	}
	return err
}

// writeExisting writes to a file, and makes none. One that has gone meanwhile,
// with its device, is no error.
func writeExisting(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
