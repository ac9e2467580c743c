package apk

import (
	"context"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apko "chainguard.dev/apko/pkg/apk/apk"
	apkofs "chainguard.dev/apko/pkg/apk/fs"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Another client of the format reads our index and installs our packages, and
// its database says the same as ours.
func TestApkoAccepts(t *testing.T) {
	r := newRepo(t)
	r.add(Meta{Name: "zlib", Version: "1.3.1-r0", License: "Zlib", Provides: []string{"so:libz.so.1=1.3.1"}},
		rootfs.Regular("usr/lib/libz.so.1.3.1", 0o755, []byte("z")), rootfs.Symlink("usr/lib/libz.so.1", "libz.so.1.3.1"))
	r.add(Meta{Name: "icu-data-full", Version: "76.1-r0", Provides: []string{"icu-data"}, ProviderPriority: 5}, rootfs.Regular("usr/share/icu/76.1/icudt76l.dat", 0o644, make([]byte, 3<<20)))
	r.add(Meta{Name: "sample", Version: "1.2.3_rc1-r4", Description: "a sample", License: "MIT", URL: "https://example.org/", Origin: "sample-src", Depends: []string{"so:libz.so.1", "icu-data-full~76"}, Provides: []string{"cmd:sample=1.2.3_rc1-r4"}},
		rootfs.Entry{Path: "usr/bin/sample", Mode: fs.ModeSetuid | 0o755, Size: 5, Content: rootfs.Bytes([]byte("hello"))},
		rootfs.Hardlink("usr/bin/alias", "usr/bin/sample"),
		rootfs.Entry{Path: "var/lib/sample", Mode: fs.ModeDir | 0o700, UID: 70, GID: 70},
		rootfs.Regular("etc/empty", 0o600, nil))
	ours, err := installWorld(t, r, InstallOptions{}, "sample")
	if err != nil {
		t.Fatal(err)
	}

	ctx := context.Background()
	keys := t.TempDir()
	if _, err := testKeys()[0].Save(keys); err != nil {
		t.Fatal(err)
	}
	theirs := apkofs.NewMemFS()
	a, err := apko.New(ctx, apko.WithFS(theirs), apko.WithArch("x86_64"), apko.WithIgnoreMknodErrors(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return a.InitDB(ctx) },
		func() error { return a.InitKeyring(ctx, []string{filepath.Join(keys, "ours.rsa.pub")}, nil) },
		func() error { return a.SetRepositories(ctx, []string{r.dir}) },
		func() error { return a.SetWorld(ctx, []string{"sample"}) },
		func() error { _, err := a.FixateWorld(ctx, nil); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	db, err := theirs.ReadFile("lib/apk/db/installed")
	if err != nil {
		db, err = theirs.ReadFile("usr/lib/apk/db/installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, want := comparable(text(t, ours, "lib/apk/db/installed")), comparable(string(db)); !slices.Equal(got, want) {
		t.Errorf("our database has\n%s\napko's has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, p := range []string{"usr/bin/sample", "usr/bin/alias", "usr/share/icu/76.1/icudt76l.dat"} {
		data, err := theirs.ReadFile(p)
		if err != nil || string(data) != text(t, ours, p) {
			t.Errorf("%s: %v, %d bytes", p, err, len(data))
		}
	}
}

// comparable are the lines of a database that two clients have to agree on:
// names, versions, checksums, sums of files. The order of packages and of
// fields is each client's own.
func comparable(db string) []string {
	var out []string
	for block := range strings.SplitSeq(db, "\n\n") {
		pkg := ""
		for line := range strings.Lines(block) {
			if sum, ok := strings.CutPrefix(line, "C:"); ok {
				pkg = strings.TrimSpace(sum)
			}
		}
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			key, value, _ := strings.Cut(line, ":")
			if value != "" && slices.Contains([]string{"P", "V", "A", "D", "p", "L", "R", "Z", "F"}, key) {
				out = append(out, pkg+" "+line)
			}
		}
	}
	slices.Sort(out)
	return out
}
