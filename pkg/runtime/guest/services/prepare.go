package services

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
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

func (s *Manager) account(name string) (account, error) {
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

// makeSecret generates a secret unless it is there. The directory belongs to
// root, so that a service can read its secrets but put nothing else there.
//
// Where the service has state already, as when the file was lost, the state has
// another value in it, or none: the service is to be told.
func (n *service) makeSecret(x spec.Secret) error {
	path := filepath.Join(n.secretsDir(), x.Name)
	if v, err := readSecret(path); err == nil && v != "" {
		return nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	value, err := generate(x)
	if err != nil {
		return err
	}
	if len(n.spec.Reload) > 0 && n.hasState() {
		if err := n.markReload(); err != nil {
			return err
		}
		n.manager.opts.Note(fmt.Sprintf("%s: secret %s is not there, though the service was set up before: a new one is made", n.spec.Name, x.Name))
	}
	return writeFile(path, value, 0o600, n.user)
}

// hasState says whether one of the service's directories on the data disk is
// there. They are made after the secrets, at the first start.
func (n *service) hasState() bool {
	mount := filepath.Clean(n.manager.opts.Spec.Data.Mount) + "/"
	return slices.ContainsFunc(n.spec.Directories, func(d spec.Directory) bool {
		return strings.HasPrefix(d.Path, mount) && exists(d.Path)
	})
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
