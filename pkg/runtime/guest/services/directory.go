package services

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// maxDepth is how deep a tree may be whose owner changes. Each level has a file
// open; PostgreSQL's has six.
const maxDepth = 128

// makeDirectory makes a directory of a service, with its owner and mode, and
// hands what is in it over where it was another's. It follows no symbolic link
// at any place: a directory above may belong to a service's user, who could
// otherwise have root chown what he likes.
func makeDirectory(d spec.Directory, a account, note func(string)) error {
	mode, err := dirMode(d.Mode)
	if err != nil {
		return err
	}
	fd, err := walk(d.Path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := handOver(fd, d.Path, a, note); err != nil {
		return err
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

// handOver gives the open directory at path to the account. One that is the
// account's already is left as it is, whatever is in it: that is every start
// but the first after a service has got another user. Otherwise all below it
// that was its former owner's is handed over too, and the directory itself
// last, so that a power cut has the next start begin again.
func handOver(fd int, path string, a account, note func(string)) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("directory %s: %w", path, err)
	}
	if int(st.Uid) == a.uid && int(st.Gid) == a.gid {
		return nil
	}
	t := transfer{from: st.Uid, to: a, device: st.Dev}
	if err := t.below(fd, path, maxDepth); err != nil {
		return fmt.Errorf("directory %s: hand over to the service's user: %w", path, err)
	}
	if t.files > 0 {
		note(fmt.Sprintf("%s and %d files in it were handed over to uid %d; they were uid %d's", path, t.files, a.uid, t.from))
	}
	if t.linked > 0 {
		note(fmt.Sprintf("%s: %d files have other names too, and are left to uid %d", path, t.linked, t.from))
	}
	if err := unix.Fchown(fd, a.uid, a.gid); err != nil {
		return fmt.Errorf("directory %s: owner: %w", path, err)
	}
	return nil
}

// transfer changes the owner of one tree.
type transfer struct {
	from   uint32 // whose files are handed over; others' are left alone
	to     account
	device uint64 // of the tree: it ends where another is mounted
	files  int    // handed over
	linked int    // left alone for their other names
}

// below hands over what is in the open directory at path. It follows no link:
// a symbolic one is handed over itself, and a file that has other names too is
// left alone, as one of those may be somebody else's.
func (t *transfer) below(fd int, path string, depth int) error {
	if depth == 0 {
		return fmt.Errorf("%s: deeper than %d directories", path, maxDepth)
	}
	names, err := list(fd, path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := t.entry(fd, name, filepath.Join(path, name), depth); err != nil {
			return err
		}
	}
	return nil
}

func (t *transfer) entry(dir int, name, path string, depth int) error {
	// What is looked at is what is changed, whatever happens to its name.
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case st.Dev != t.device || st.Uid != t.from && int(st.Uid) != t.to.uid:
		return nil
	case !isDir && st.Nlink > 1:
		if st.Uid == t.from {
			t.linked++
		}
		return nil
	case isDir:
		sub, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		err = t.below(sub, path, depth-1)
		unix.Close(sub)
		if err != nil {
			return err
		}
	}
	if int(st.Uid) == t.to.uid && int(st.Gid) == t.to.gid {
		return nil
	}
	if err := unix.Fchownat(fd, "", t.to.uid, t.to.gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("%s: owner: %w", path, err)
	}
	t.files++
	return nil
}

// list reads the names in an open directory, which stays open.
func list(fd int, path string) ([]string, error) {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f := os.NewFile(uintptr(again), path)
	defer f.Close()
	return f.Readdirnames(-1)
}

// ownSecrets gives the service's user the files of its secrets, which are an
// earlier user's where the recipe has got another one. Their directory is
// root's, and nobody else makes files in it.
func (n *service) ownSecrets() error {
	fd, err := walk(n.secretsDir())
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var names []string
	for _, x := range n.spec.Secrets {
		names = append(names, x.Name)
	}
	for _, c := range n.spec.Certificates {
		names = append(names, c.Name+".key", c.Name+".crt")
	}
	for _, name := range names {
		err := unix.Fchownat(fd, name, n.user.uid, n.user.gid, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("secret %s of service %s: owner: %w", name, n.spec.Name, err)
		}
	}
	return nil
}
