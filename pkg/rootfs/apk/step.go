package apk

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// AddGroup is addgroup -S -g GID NAME. A group that is there with the same
// number is left as it is; another number is an error.
type AddGroup struct {
	Name string
	GID  uint32
}

// AddUser is adduser -S -D -H -u UID -G GROUP NAME: a user without a password.
// One that is there with the same number is left as it is; another number is
// an error.
type AddUser struct {
	Name  string
	UID   uint32
	GID   uint32 // of the primary group
	Gecos string
	Home  string // "/dev/null" if empty
	Shell string // "/sbin/nologin" if empty
}

// AddMember is addgroup USER GROUP. The group has to be there.
type AddMember struct {
	User, Group string
}

// MakeDir makes a directory or gives the one that is there these attributes.
type MakeDir struct {
	Path     string
	Mode     fs.FileMode
	UID, GID uint32
}

// MakeLink is ln -s TARGET PATH where nothing is at the path.
type MakeLink struct {
	Path, Target string
}

// MakeFile writes a file of root's.
type MakeFile struct {
	Path string
	Mode fs.FileMode
	Data []byte
}

// Applets is busybox --install -s: a symbolic link to Target for each path
// that the file List names, one a line ("/etc/busybox-paths.d/busybox"), where
// nothing is at the path.
type Applets struct {
	List, Target string
}

// Do adds the group to etc/group.
func (s AddGroup) Do(t *rootfs.Tree) error {
	return addRecord(t, "etc/group", 0o644, s.Name, 2, s.GID, fmt.Sprintf("%s:x:%d:", s.Name, s.GID))
}

// Do adds the user to etc/passwd and etc/shadow.
func (s AddUser) Do(t *rootfs.Tree) error {
	if strings.ContainsAny(s.Gecos+s.Home+s.Shell, ":\n") {
		return fmt.Errorf("user %q: a field holds a colon or a line break", s.Name)
	}
	home, shell := s.Home, s.Shell
	if home == "" {
		home = "/dev/null"
	}
	if shell == "" {
		shell = "/sbin/nologin"
	}
	if err := addRecord(t, "etc/passwd", 0o644, s.Name, 2, s.UID, fmt.Sprintf("%s:x:%d:%d:%s:%s:%s", s.Name, s.UID, s.GID, s.Gecos, home, shell)); err != nil {
		return err
	}
	// The day of the last change is left out: it would be a clock's.
	return addRecord(t, "etc/shadow", 0o640, s.Name, -1, 0, s.Name+":!::0:::::")
}

// Do adds the user to the group's members.
func (s AddMember) Do(t *rootfs.Tree) error {
	if s.User == "" || strings.ContainsAny(s.User, ":, \n") {
		return fmt.Errorf("%q is not a user's name", s.User)
	}
	lines, e, err := readLines(t, "etc/group", 0o644)
	if err != nil {
		return err
	}
	for i, line := range lines {
		f := strings.Split(line, ":")
		if f[0] != s.Group || len(f) != 4 {
			continue
		}
		members := strings.FieldsFunc(f[3], func(r rune) bool { return r == ',' })
		if slices.Contains(members, s.User) {
			return nil
		}
		f[3] = strings.Join(append(members, s.User), ",")
		lines[i] = strings.Join(f, ":")
		return writeLines(t, e, lines)
	}
	return fmt.Errorf("no group %q in etc/group", s.Group)
}

// Do makes the directory.
func (s MakeDir) Do(t *rootfs.Tree) error {
	e := rootfs.Dir(inTree(s.Path), s.Mode)
	e.UID, e.GID = s.UID, s.GID
	if have, ok := t.Lookup(e.Path); ok && !have.IsDir() {
		return fmt.Errorf("%s is there and is not a directory", s.Path)
	}
	return t.Set(e)
}

// Do makes the link.
func (s MakeLink) Do(t *rootfs.Tree) error {
	name := inTree(s.Path)
	if _, ok := t.Lookup(name); ok {
		return nil
	}
	return t.Add(rootfs.Symlink(name, s.Target))
}

// Do writes the file.
func (s MakeFile) Do(t *rootfs.Tree) error {
	return t.Set(rootfs.Regular(inTree(s.Path), s.Mode, s.Data))
}

// Do makes the links.
func (s Applets) Do(t *rootfs.Tree) error {
	list := inTree(s.List)
	if _, ok := t.Lookup(list); !ok {
		return fmt.Errorf("%s is not there", s.List)
	}
	lines, _, err := readLines(t, list, 0)
	if err != nil {
		return err
	}
	for _, line := range lines {
		if err := (MakeLink{Path: line, Target: s.Target}).Do(t); err != nil {
			return err
		}
	}
	return nil
}

// inTree is a path of the guest as a tree has it.
func inTree(p string) string {
	if p = strings.TrimPrefix(path.Clean("/"+p), "/"); p != "" {
		return p
	}
	return rootfs.Root
}

// addRecord adds a line to a file of colon-separated records unless its name
// is there with the number in the given field (none if negative).
func addRecord(t *rootfs.Tree, file string, mode fs.FileMode, name string, field int, number uint32, line string) error {
	if name == "" || strings.ContainsAny(name, ":, \n") {
		return fmt.Errorf("%s: %q is not a name", file, name)
	}
	lines, e, err := readLines(t, file, mode)
	if err != nil {
		return err
	}
	want := strconv.FormatUint(uint64(number), 10)
	for _, l := range lines {
		f := strings.Split(l, ":")
		if f[0] == name {
			if field >= 0 && (len(f) <= field || f[field] != want) {
				return fmt.Errorf("%s: %s is there with another number: %s", file, name, l)
			}
			return nil
		}
		if field >= 0 && len(f) > field && f[field] == want {
			return fmt.Errorf("%s: the number %s of %s is that of %s", file, want, name, f[0])
		}
	}
	return writeLines(t, e, append(lines, line))
}

// maxLines is the largest file that steps change, in bytes.
const maxLines = 1 << 20

// readLines reads a text file; one that is not there is empty and gets mode.
func readLines(t *rootfs.Tree, file string, mode fs.FileMode) ([]string, rootfs.Entry, error) {
	e, ok := t.Lookup(file)
	if !ok {
		return nil, rootfs.Entry{Path: file, Mode: mode}, nil
	}
	if e.Size > maxLines {
		return nil, e, fmt.Errorf("%s has %d bytes, more than %d", file, e.Size, maxLines)
	}
	r, err := e.Open()
	if err != nil {
		return nil, e, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, e, fmt.Errorf("%s: %w", file, err)
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }), e, nil
}

func writeLines(t *rootfs.Tree, e rootfs.Entry, lines []string) error {
	data := []byte(strings.Join(lines, "\n") + "\n")
	e.Content, e.Size, e.Hard = rootfs.Bytes(data), int64(len(data)), ""
	return t.Set(e)
}
