package bundle

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func sample() Manifest {
	return Manifest{
		Schema: Schema, Name: "sql", Arch: "amd64", SourceDate: 1700000000,
		Lock:     Lock{Digest: "sha256:" + strings.Repeat("a", 64)},
		Root:     Root{Serial: "root", Hash: strings.Repeat("b", 64)},
		VM:       VM{MemoryMiB: 512, CPUs: 2, Cmdline: "root.serial=root", Data: Data{Serial: "data", Size: 8 << 30}},
		Services: []string{"postgresql"},
		Ports:    []Port{{Name: "postgresql", Service: "postgresql", Port: 5432, URL: "postgres://owner:${secret:owner}@${address}/app?a=b&c=${certificate:server}"}},
		Packages: []Package{{Name: "musl", Version: "1.2.5-r0"}},
	}
}

// build writes a bundle with the three artifacts every bundle has.
func build(t *testing.T, dir, root string) *Manifest {
	t.Helper()
	w, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []struct{ name, role, text string }{
		{"root.img", RoleRoot, root}, {"bzImage", RoleKernel, "kernel"}, {"initramfs", RoleInitramfs, "cpio"},
	} {
		if err := w.Add(t.Context(), a.name, a.role, strings.NewReader(a.text)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Commit(t.Context(), sample())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWriteLoadVerify(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "dist", "sql-amd64")
	build(t, dir, "root")
	first, err := Digest(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Artifacts) != 3 || m.Artifacts[0].File != "bzImage" || m.Artifacts[2].Size != 4 {
		t.Errorf("artifacts: %+v", m.Artifacts)
	}
	if err := Verify(t.Context(), dir); err != nil {
		t.Error(err)
	}
	cmd := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", SumsFile)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	if sums, err := os.ReadFile(filepath.Join(dir, SumsFile)); err != nil || strings.Count(string(sums), "\n") != 4 {
		t.Errorf("sums: %v\n%s", err, sums)
	}

	// The same inputs at the same place: the same bundle, and nothing beside it.
	build(t, dir, "root")
	if again, err := Digest(dir); err != nil || again != first {
		t.Errorf("digest of a second build: %s, %v; first %s", again, err, first)
	}
	build(t, dir, "another root")
	if other, err := Digest(dir); err != nil || other == first {
		t.Errorf("digest of another build: %s, %v", other, err)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the bundle: %v, %v", entries, err)
	}
}

// What the manifest promises decides, not what the copied files happen to be.
func TestWriteKeepsThePromise(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{}
	m := sample()
	for _, a := range []Artifact{{File: "bzImage", Role: RoleKernel}, {File: "initramfs", Role: RoleInitramfs}, {File: "root.img", Role: RoleRoot}} {
		path := filepath.Join(dir, a.File)
		if err := os.WriteFile(path, []byte("bytes of "+a.File), 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if a.Size, a.Digest, err = digestFile(t.Context(), path, -1); err != nil {
			t.Fatal(err)
		}
		files[a.File] = path
		m.Artifacts = append(m.Artifacts, a)
	}
	text, err := Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if err := Write(t.Context(), out, m, files); err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(filepath.Join(out, ManifestFile)); err != nil || string(have) != string(text) {
		t.Errorf("manifest: %v\n%s", err, have)
	}

	// A flipped bit of the same length, and files that are missing or too many.
	if err := os.WriteFile(files["root.img"], []byte("bytes of rnot.img"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = Write(t.Context(), out, m, files)
	if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "root.img") {
		t.Errorf("a flipped bit: %v", err)
	}
	if err := Verify(t.Context(), out); err != nil {
		t.Errorf("the bundle before it: %v", err)
	}
	for what, names := range map[string][]string{"one less": {"bzImage", "initramfs"}, "one more": {"bzImage", "initramfs", "root.img", "extra"}} {
		w, err := Create(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := w.Add(t.Context(), name, RoleRoot, strings.NewReader("bytes of "+name)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Commit(t.Context(), m); fault.ClassOf(err) != fault.Verification {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestVerifyNamesWhatIsWrong(t *testing.T) {
	tests := []struct {
		name   string
		damage func(path string) error
		want   []string
	}{
		{"content", func(p string) error { return os.WriteFile(p, []byte("rOOt"), 0o644) }, []string{"root.img", "expected sha256:", "got sha256:"}},
		{"size", func(p string) error { return os.Truncate(p, 3) }, []string{"root.img", "expected 4 bytes, got 3"}},
		{"absent", os.Remove, []string{"root.img", "not there"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "b")
			build(t, dir, "root")
			if err := tt.damage(filepath.Join(dir, "root.img")); err != nil {
				t.Fatal(err)
			}
			err := Verify(t.Context(), dir)
			if err == nil || fault.ClassOf(err) != fault.Verification {
				t.Fatalf("got %v", err)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q lacks %q", err, w)
				}
			}
		})
	}
}

func TestVerifyEndsWithTheContext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	build(t, dir, "root")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Verify(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCreateRefusesToReplaceOtherThings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "letter.txt")
	if err := os.WriteFile(file, []byte("dear"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{dir, file} {
		if _, err := Create(at); err == nil || fault.ClassOf(err) != fault.Usage {
			t.Errorf("Create(%s) = %v", at, err)
		}
	}
}

func TestAbortAndDeadWritersLeaveNothing(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "b")
	dead := filepath.Join(parent, ".b.partial-1")
	if err := os.MkdirAll(filepath.Join(dead, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	live, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Create(dir) // must not take the first for dead
	if err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(parent); len(entries) != 2 {
		t.Errorf("while two write: %v", entries)
	}
	if _, err := live.Path("root.img", RoleRoot); err != nil {
		t.Fatal(err)
	}
	if _, err := live.Commit(t.Context(), sample()); err == nil || !strings.Contains(err.Error(), "never written") {
		t.Errorf("commit without the file: %v", err)
	}
	if err := second.Abort(); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(parent); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}
