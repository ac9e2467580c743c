package apk

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// writeDatabase writes what `apk info` and `apk audit` read.
func writeDatabase(t *rootfs.Tree, pkgs []*installed, o InstallOptions) error {
	var db, triggers strings.Builder
	var scripts []memberFile
	for _, in := range pkgs {
		if err := in.record(&db); err != nil {
			return err
		}
		for kind, text := range in.scripts {
			// apk finds a script by this name.
			scripts = append(scripts, memberFile{in.meta.ID() + "." + in.meta.Checksum + "." + kind, []byte(text), 0o755})
		}
		if len(in.meta.Triggers) > 0 {
			fmt.Fprintf(&triggers, "%s %s\n", in.meta.Checksum, strings.Join(in.meta.Triggers, " "))
		}
	}
	var tarball bytes.Buffer
	slices.SortFunc(scripts, func(a, b memberFile) int { return strings.Compare(a.name, b.name) })
	if err := writeFiles(&tarball, o.Epoch, true, scripts...); err != nil {
		return fmt.Errorf("apk database: scripts.tar: %w", err)
	}
	world := slices.Clone(o.World)
	slices.Sort(world)
	lines := func(l []string) []byte {
		if len(l) == 0 {
			return nil
		}
		return []byte(strings.Join(l, "\n") + "\n")
	}
	dir := dbDirOf(t)
	for _, e := range []rootfs.Entry{
		rootfs.Regular(dir+"/installed", 0o644, []byte(db.String())),
		rootfs.Regular(dir+"/scripts.tar", 0o644, tarball.Bytes()),
		rootfs.Regular(dir+"/triggers", 0o644, []byte(triggers.String())),
		rootfs.Regular(dir+"/lock", 0o600, nil),
		rootfs.Regular("etc/apk/world", 0o644, lines(slices.Compact(world))),
		rootfs.Regular("etc/apk/arch", 0o644, lines([]string{o.Arch})),
		rootfs.Regular("etc/apk/repositories", 0o644, lines(o.Repositories)),
	} {
		if err := t.Set(e); err != nil {
			return fmt.Errorf("apk database: %w", err)
		}
	}
	return nil
}

// record appends the package to the installed database: its record, then
// directories (F) with attributes (M) unless 0755 of root, and the files (R)
// in each with attributes (a) unless 0644 of root and checksum (Z).
func (in *installed) record(b *strings.Builder) error {
	b.WriteString(in.meta.record())
	if len(in.meta.Replaces) > 0 {
		b.WriteString("r:" + strings.Join(in.meta.Replaces, " ") + "\n")
	}
	if in.meta.ReplacesPriority != 0 {
		fmt.Fprintf(b, "q:%d\n", in.meta.ReplacesPriority)
	}
	if in.tag != "" {
		b.WriteString("s:" + in.tag + "\n")
	}
	inDir := map[string][]rootfs.Entry{}
	dirs := map[string]rootfs.Entry{}
	for e := range in.tree.All() {
		if e.IsDir() {
			dirs[e.Path] = e
			continue
		}
		if !in.owned[e.Path] {
			continue
		}
		dir := path.Dir(e.Path)
		inDir[dir] = append(inDir[dir], e)
		if dir == rootfs.Root {
			dirs[dir] = rootfs.Dir(rootfs.Root, 0o755)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		d := dirs[dir]
		name := dir
		if dir == rootfs.Root {
			name = ""
		}
		b.WriteString("F:" + name + "\n")
		if d.UID != 0 || d.GID != 0 || d.Mode != fs.ModeDir|0o755 || len(d.Xattrs) > 0 {
			b.WriteString("M:" + acl(d) + "\n")
		}
		for _, e := range inDir[dir] {
			b.WriteString("R:" + path.Base(e.Path) + "\n")
			if e.UID != 0 || e.GID != 0 || e.Mode != 0o644 || len(e.Xattrs) > 0 {
				b.WriteString("a:" + acl(e) + "\n")
			}
			sum, ok, err := in.sum(e)
			if err != nil {
				return fmt.Errorf("package %s: %w", in.meta.ID(), err)
			}
			if ok {
				b.WriteString("Z:" + checksumString(sum) + "\n")
			}
		}
	}
	b.WriteString("\n")
	return nil
}

// sum is entrySum, which was taken of most entries when the package was opened.
func (in *installed) sum(e rootfs.Entry) ([]byte, bool, error) {
	for _, name := range [...]string{e.Path, e.Hard} {
		if sum := in.sums[name]; sum != nil {
			return sum, true, nil
		}
	}
	return entrySum(e)
}

// acl is owner, mode in octal and the checksum of extended attributes: each
// name with a NUL and its value, sorted by name.
func acl(e rootfs.Entry) string {
	s := fmt.Sprintf("%d:%d:%o", e.UID, e.GID, rootfs.UnixMode(e.Mode)&0o7777)
	if len(e.Xattrs) == 0 {
		return s
	}
	return s + ":" + checksumString(xattrSum(e.Xattrs))
}

func xattrSum(xattrs map[string][]byte) []byte {
	h := sha1.New()
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		h.Write(append([]byte(name), 0))
		h.Write(xattrs[name])
	}
	return h.Sum(nil)
}
