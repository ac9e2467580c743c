package supervise

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// account is the user a service runs as.
type account struct {
	uid, gid int
	groups   []uint32
	home     string
}

func (s *Supervisor) account(name string) (account, error) {
	return lookupAccount(s.opts.Lookup, name)
}

// lookupAccount finds an account; lookup is nil for the image's own.
func lookupAccount(lookup func(string) (*user.User, []string, error), name string) (account, error) {
	if lookup == nil {
		lookup = lookupUser
	}
	u, groups, err := lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("user %q: %w: add it to the recipe's users", name, err)
	}
	a := account{home: u.HomeDir}
	if a.uid, err = strconv.Atoi(u.Uid); err != nil {
		return account{}, fmt.Errorf("user %q: uid: %w", name, err)
	}
	if a.gid, err = strconv.Atoi(u.Gid); err != nil {
		return account{}, fmt.Errorf("user %q: gid: %w", name, err)
	}
	for _, g := range groups {
		n, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("user %q: group: %w", name, err)
		}
		a.groups = append(a.groups, uint32(n))
	}
	return a, nil
}

// credential is what makes a process run as the account; nil where the caller
// is that user already and may not set groups.
func (a account) credential() *syscall.Credential {
	if own := os.Getuid(); own != 0 && own == a.uid {
		return nil
	}
	return &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid), Groups: a.groups}
}

// makeDirectory makes a directory of a service, with its owner and mode. It
// follows no symbolic link at any place: a directory above may belong to a
// service's user, who could otherwise have root chown what he likes.
func makeDirectory(d spec.Directory, a account) error {
	mode, err := dirMode(d.Mode)
	if err != nil {
		return err
	}
	fd, err := walk(d.Path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, a.uid, a.gid); err != nil {
		return fmt.Errorf("directory %s: owner: %w", d.Path, err)
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return fmt.Errorf("directory %s: mode: %w", d.Path, err)
	}
	return nil
}

// walk opens a directory, making what is missing of its path as root's 0755.
func walk(path string) (int, error) {
	const flags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open("/", flags, 0)
	if err != nil {
		return -1, fmt.Errorf("/: %w", err)
	}
	for name := range strings.SplitSeq(strings.Trim(filepath.Clean(path), "/"), "/") {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EROFS) {
			unix.Close(fd)
			return -1, fmt.Errorf("directory %s: make %s: %w", path, name, err)
		}
		next, err := unix.Openat(fd, name, flags, 0)
		unix.Close(fd)
		if err != nil {
			return -1, fmt.Errorf("directory %s: %s: %w: name a path below the data disk, /run or /tmp, without symbolic links", path, name, err)
		}
		fd = next
	}
	return fd, nil
}

// makeSecret generates a secret unless it is there. The directory belongs to
// root, so that a service can read its secrets but put nothing else there.
func makeSecret(dir string, x spec.Secret, a account) error {
	path := filepath.Join(dir, x.Name)
	if v, err := readSecret(path); err == nil && v != "" {
		return nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	value, err := generate(x)
	if err != nil {
		return err
	}
	return writeFile(path, value, 0o600, a)
}

// generate returns a new value.
func generate(x spec.Secret) (string, error) {
	b := make([]byte, x.Bytes)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("secret %s: %w", x.Name, err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

// makeSecretsDir makes the directory of a service's secrets: root's, and
// readable for the service's group only.
func makeSecretsDir(dir string, a account) error {
	fd, err := walk(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Fchown(fd, os.Getuid(), a.gid), unix.Fchmod(fd, 0o750)); err != nil {
		return fmt.Errorf("secrets directory %s: %w", dir, err)
	}
	return nil
}

// writeFile writes a file of the account whole or not at all, also across a
// power cut.
func writeFile(path, text string, mode os.FileMode, a account) error {
	return atomicfile.Fill(path, mode, func(f *os.File) error {
		_, err := f.WriteString(text)
		return errors.Join(err, f.Chown(a.uid, a.gid))
	})
}

// readSecret reads a secret; a symbolic link is refused.
func readSecret(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", fmt.Errorf("secret: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, agent.MaxSecret))
	if err != nil {
		return "", fmt.Errorf("secret: %w", err)
	}
	return string(b), nil
}
