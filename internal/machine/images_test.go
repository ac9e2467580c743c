package machine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A bundle's file that is a link, to another machine's data say, or that is not
// what the manifest names, never reaches a guest, whichever way it is taken.
func TestHostileBundle(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "data.img")
	for _, tt := range []struct {
		name  string
		spoil func(path string) error
		want  string
	}{
		{"link", func(p string) error {
			// Of the very size, and even of the very content.
			text, err := os.ReadFile(p)
			return errors.Join(err, os.WriteFile(secret, text, 0o600), os.Remove(p), os.Symlink(secret, p))
		}, "is a link"},
		{"pipe", func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) }, "not a regular file"},
		{"content", func(p string) error { return os.WriteFile(p, []byte("rootr00t"), 0o600) }, "expected sha256:"},
	} {
		for _, file := range []string{"root.img", "bzImage", "initramfs"} {
			t.Run(tt.name+" "+file, func(t *testing.T) {
				f := setup(t, "good")
				if err := tt.spoil(filepath.Join(f.bundle, file)); err != nil {
					t.Fatal(err)
				}
				want := tt.want
				if tt.name == "content" && file != "root.img" {
					want = "expected"
				}
				if _, err := f.Start(t.Context(), f.bundle, StartOptions{}); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), want) {
					t.Errorf("run: %v", err)
				}
				if _, err := f.Install(t.Context(), f.bundle, "", UpOptions{}, nil); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), want) {
					t.Errorf("up: %v", err)
				}
				if *f.hv.starts != 0 {
					t.Error("it was started")
				}
			})
		}
	}
}

// What a guest gets is what was checked, also when its name leads elsewhere
// before the hypervisor opens it.
func TestImagesAreTheCheckedOnes(t *testing.T) {
	f := setup(t, "good")
	m, err := bundle.Load(f.bundle)
	if err != nil {
		t.Fatal(err)
	}
	im, err := f.openImages(t.Context(), f.bundle, m)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	path := filepath.Join(f.bundle, "root.img")
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("another!"), 0o600)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if _, err := im.root.ReadAt(got, 0); err != nil || string(got) != "rootroot" {
		t.Errorf("%q, %v", got, err)
	}
}

// A file is read once, until anything of it changes.
func TestDigestsAreRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.img")
	cache := path + ".digests"
	look := func() (digest, bool) {
		t.Helper()
		f, err := openArtifact(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		id, err := identify(f)
		if err != nil {
			t.Fatal(err)
		}
		ds := loadDigests(cache)
		d, known := ds.find(id)
		if !known {
			if d, err = hash(t.Context(), f, id); err != nil {
				t.Fatal(err)
			}
			if err := ds.add([]digest{d}).save(cache); err != nil {
				t.Fatal(err)
			}
		}
		return d, known
	}
	// Changed just now: the next change may have the same time.
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if first, known := look(); known || !strings.HasPrefix(first.Digest, "sha256:7692c3ad3540bb80") {
		t.Errorf("%+v, known %v", first, known)
	}
	if _, known := look(); known {
		t.Error("a file that changed just now is remembered")
	}
	old := digest{fileID{1, 2, 3, 4, 5}, "sha256:old"}
	now := digest{fileID{1, 2, 3, 4, 6}, "sha256:now"}
	other := digest{fileID{1, 7, 3, 4, 5}, "sha256:other"}
	ds := digests{old, other}
	if got := ds.add([]digest{other}); got != nil {
		t.Errorf("nothing is new, and it would be written: %v", got)
	}
	if got := ds.add([]digest{now}); !slices.Equal(got, digests{other, now}) {
		t.Errorf("got %v", got)
	}
	fresh := digest{fileID{1, 9, 3, 4, time.Now().UnixNano()}, "sha256:fresh"}
	if got := ds.add([]digest{fresh}); got != nil {
		t.Errorf("what changed just now is kept: %v", got)
	}
	if err := ds.add([]digest{now}).save(cache); err != nil {
		t.Fatal(err)
	}
	if d, known := loadDigests(cache).find(now.fileID); !known || d != now {
		t.Errorf("read back: %+v, %v", d, known)
	}
	for n := range 3 * maxDigests {
		ds = append(ds, digest{fileID{2, uint64(n), 0, 0, 0}, "x"})
	}
	if got := ds.add([]digest{now}); len(got) != maxDigests || got[maxDigests-1] != now {
		t.Errorf("%d are kept", len(got))
	}
}

// FuzzDigests checks that no file makes the reader panic or remember without
// limit.
func FuzzDigests(f *testing.F) {
	f.Add([]byte(`[{"dev":1,"ino":2,"size":3,"mtime":4,"ctime":5,"digest":"sha256:1"}]`))
	f.Add([]byte(`[{},{"dev":-1}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ds := parseDigests(b); len(ds) > maxDigests {
			t.Errorf("%d are kept", len(ds))
		}
	})
}

func BenchmarkOpenImages(b *testing.B) {
	r, err := Open(filepath.Join(b.TempDir(), "state"))
	if err != nil {
		b.Fatal(err)
	}
	// Files of the size that recipes/sql makes.
	dir := b.TempDir()
	m := &bundle.Manifest{}
	for role, size := range map[string]int{bundle.RoleKernel: 9 << 20, bundle.RoleInitramfs: 3 << 20, bundle.RoleRoot: 64 << 20} {
		content := make([]byte, size)
		if err := os.WriteFile(filepath.Join(dir, role), content, 0o600); err != nil {
			b.Fatal(err)
		}
		m.Artifacts = append(m.Artifacts, bundle.Artifact{File: role, Role: role, Size: int64(size), Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(content))})
	}
	time.Sleep(settled) // or they would be too new to be remembered
	for _, known := range []bool{false, true} {
		b.Run(map[bool]string{false: "first", true: "known"}[known], func(b *testing.B) {
			for b.Loop() {
				if !known {
					if err := os.RemoveAll(r.digestFile()); err != nil {
						b.Fatal(err)
					}
				}
				im, err := r.openImages(b.Context(), dir, m)
				if err != nil {
					b.Fatal(err)
				}
				if err := im.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
