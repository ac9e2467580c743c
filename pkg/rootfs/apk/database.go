package apk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Installed is a package in the database of a tree.
type Installed struct {
	Meta Meta
	// Tag is that of the repository it came from.
	Tag string
	// Paths are its directories and files, in the database's order.
	Paths []InstalledPath
}

// InstalledPath is a directory or a file of an installed package.
type InstalledPath struct {
	Path     string // as in a tree
	Dir      bool
	UID, GID uint32
	Mode     uint32 // the lower 12 bits of st_mode
	// Checksum is "Q1" and base64 of the SHA-1 of a file's contents or a
	// symbolic link's target, empty for what has none; Xattrs the same of the
	// extended attributes.
	Checksum, Xattrs string
}

// maxPaths bounds the paths of all packages of a database.
const maxPaths = 4_000_000

// ReadDatabase reads the installed database of a tree, as apk does for
// `apk info`. A tree without one is an error of class fault.Source.
func ReadDatabase(t *rootfs.Tree) ([]Installed, error) {
	file := dbDirOf(t) + "/installed"
	e, ok := t.Lookup(file)
	if !ok {
		return nil, fault.Errorf(fault.Source, "no %s in the tree", file).Hintf("it was not installed from packages, or without a database")
	}
	if e.Size > maxIndex {
		return nil, fault.Errorf(fault.Source, "%s has %d bytes, more than %d", file, e.Size, int64(maxIndex))
	}
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out, err := parseDatabase(r)
	if err != nil {
		return nil, fault.Errorf(fault.Source, "%s: %w", file, err)
	}
	return out, nil
}

// dbDirOf is the directory of the database in a tree: where /lib is a link to
// usr/lib, apk looks there.
func dbDirOf(t *rootfs.Tree) string {
	if e, ok := t.Lookup("lib"); ok && e.IsSymlink() {
		return "usr/" + dbDir
	}
	return dbDir
}

// parseDatabase reads the installed database.
func parseDatabase(r io.Reader) ([]Installed, error) {
	var out []Installed
	p := &databaseParser{}
	err := eachLine(r, func(n int, line string) error {
		if line == "" {
			return p.flush(&out)
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || len(key) != 1 {
			return fmt.Errorf("line %d: %.60q is not a field", n, line)
		}
		if err := p.field(key[0], value); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, p.flush(&out)
}

type databaseParser struct {
	Installed
	any   bool
	dir   string
	paths int
}

func (p *databaseParser) flush(out *[]Installed) error {
	if !p.any {
		return nil
	}
	if err := p.Meta.checkFileName(); err != nil {
		return err
	}
	if len(*out) == maxPackages {
		return fmt.Errorf("more than %d packages", maxPackages)
	}
	*out = append(*out, p.Installed)
	*p = databaseParser{paths: p.paths}
	return nil
}

func (p *databaseParser) field(key byte, value string) (err error) {
	p.any = true
	last := func() *InstalledPath { return &p.Paths[len(p.Paths)-1] }
	switch key {
	case 'r':
		p.Meta.Replaces = strings.Fields(value)
	case 'q':
		p.Meta.ReplacesPriority, err = strconv.Atoi(value)
	case 's':
		p.Tag = value
	case 'F', 'R':
		if p.paths++; p.paths > maxPaths {
			return fmt.Errorf("more than %d paths", maxPaths)
		}
		x := InstalledPath{Dir: key == 'F', Mode: 0o755}
		if key == 'R' {
			if x.Mode = 0o644; len(p.Paths) == 0 {
				return errors.New("a file before its directory")
			}
			if strings.Contains(value, "/") || value == "" {
				return fmt.Errorf("%q is not a file's name", value)
			}
			value = path.Join(p.dir, value)
		}
		if x.Path = inTree(value); strings.Contains(value, "..") && x.Path != value || strings.HasPrefix(value, "/") {
			return fmt.Errorf("%q is not a path", value)
		}
		if x.Dir {
			p.dir = value
		}
		p.Paths = append(p.Paths, x)
	case 'M', 'a':
		if len(p.Paths) == 0 || last().Dir != (key == 'M') {
			return errors.New("attributes before what has them")
		}
		err = last().setACL(value)
	case 'Z':
		if len(p.Paths) == 0 || last().Dir {
			return errors.New("a checksum before its file")
		}
		last().Checksum = value
	default:
		err = p.Meta.setField(key, value)
	}
	return err
}

// setACL reads "UID:GID:MODE" with the mode in octal and, after another colon,
// the checksum of extended attributes.
func (x *InstalledPath) setACL(s string) error {
	f := strings.SplitN(s, ":", 4)
	if len(f) < 3 {
		return fmt.Errorf("attributes %q are not uid:gid:mode", s)
	}
	var n [3]uint64
	for i, bits := range [3]int{32, 32, 16} {
		var err error
		if n[i], err = strconv.ParseUint(f[i], 10-i/2*2, bits); err != nil {
			return fmt.Errorf("attributes %q: %w", s, err)
		}
	}
	x.UID, x.GID, x.Mode = uint32(n[0]), uint32(n[1]), uint32(n[2])&0o7777
	if len(f) == 4 {
		x.Xattrs = f[3]
	}
	return nil
}

// Change is a difference between a tree and its database, as `apk audit
// --system` reports it.
type Change struct {
	// Kind is 'A' for a path that no package has, 'U' for other contents or
	// another type, 'M' for another owner, mode or extended attributes, 'X'
	// for what is gone.
	Kind byte
	Path string
	// Package is its owner's name, empty with 'A'.
	Package string
}

// String is the change as apk prints it.
func (c Change) String() string { return string(c.Kind) + " " + c.Path }

// Audit compares a tree with its installed database, sorted by path. The
// database's own files are left out, as are directories that hold something of
// a package.
func Audit(t *rootfs.Tree) ([]Change, error) {
	pkgs, err := ReadDatabase(t)
	if err != nil {
		return nil, err
	}
	type owned struct {
		InstalledPath
		pkg string
	}
	want := map[string]owned{}
	for _, p := range pkgs {
		for _, x := range p.Paths {
			// Of a directory's several owners the first with other than the
			// common attributes has its way.
			if have, ok := want[x.Path]; ok && x.Dir && (have.Mode != 0o755 || have.UID != 0 || have.GID != 0 || have.Xattrs != "") {
				continue
			}
			want[x.Path] = owned{x, p.Meta.Name}
			for dir := path.Dir(x.Path); dir != rootfs.Root; dir = path.Dir(dir) {
				if _, ok := want[dir]; !ok {
					want[dir] = owned{InstalledPath{Path: dir, Dir: true, Mode: 0o755}, p.Meta.Name}
				}
			}
		}
	}
	var out []Change
	for _, name := range slices.Sorted(maps.Keys(want)) {
		w := want[name]
		e, ok := t.Lookup(name)
		kind := byte('X')
		if ok {
			if kind, err = w.compare(e); err != nil {
				return nil, err
			}
		}
		if kind != 0 {
			out = append(out, Change{kind, name, w.pkg})
		}
	}
	own := func(name string) bool { // the database's, or a directory above it
		return slices.ContainsFunc([]string{dbDirOf(t), "etc/apk"}, func(dir string) bool {
			return strings.HasPrefix(dir+"/", name+"/") || strings.HasPrefix(name, dir+"/")
		})
	}
	for e := range t.All() {
		if _, ok := want[e.Path]; !ok && !own(e.Path) {
			out = append(out, Change{Kind: 'A', Path: e.Path})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// compare returns the kind of the change, 0 for none.
func (x InstalledPath) compare(e rootfs.Entry) (byte, error) {
	if x.Dir != e.IsDir() {
		return 'U', nil
	}
	if !x.Dir && x.Checksum != "" {
		sum, ok, err := entrySum(e)
		if err != nil {
			return 0, err
		}
		if !ok || checksumString(sum) != x.Checksum {
			return 'U', nil
		}
	}
	xattrs := ""
	if len(e.Xattrs) > 0 {
		xattrs = checksumString(xattrSum(e.Xattrs))
	}
	if e.UID != x.UID || e.GID != x.GID || rootfs.UnixMode(e.Mode)&0o7777 != x.Mode || xattrs != x.Xattrs {
		return 'M', nil
	}
	return 0, nil
}
