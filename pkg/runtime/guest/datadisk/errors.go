package datadisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysfs has a directory for each mounted ext4 file system, named as its device.
const sysfs = "/sys/fs/ext4"

// Errors says whether the kernel has found errors in the mounted file system of
// device, after which it writes no more to it (errors=remount-ro). The mount's
// flags do not say so: from Linux 6.12 on they stay as they were. e2fsck, at
// the next start, takes the count back.
func Errors(device string) error { return fileSystemErrors(sysfs, device) }

func fileSystemErrors(sysfs, device string) error {
	dir := filepath.Join(sysfs, filepath.Base(device))
	count, err := attribute(dir, "errors_count")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a file system without a count
	}
	if err != nil {
		return fmt.Errorf("data disk %s: %w", device, err)
	}
	if count == "0" {
		return nil
	}
	where := ""
	if f, err := attribute(dir, "first_error_func"); err == nil && f != "" {
		where = ", first in " + f
	}
	return fmt.Errorf("data disk %s: errors in its file system (%s%s): nothing is written to it any more: restart the machine, which repairs it, and look at the disk that it lies on", device, count, where)
}

func attribute(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b)), err
}
