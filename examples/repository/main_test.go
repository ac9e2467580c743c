package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// publish writes a repository of two packages, of which one needs the other,
// and returns the file of the key that signs it.
func publish(t *testing.T, dir, version string, key *apk.SigningKey) {
	t.Helper()
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	if err := os.MkdirAll(filepath.Join(dir, arch), 0o755); err != nil {
		t.Fatal(err)
	}
	var metas []apk.Meta
	for _, m := range []apk.Meta{{Name: "hello", Depends: []string{"words"}}, {Name: "words"}} {
		m.Version, m.Arch, m.License = version, arch, "MIT"
		tree := rootfs.New()
		if err := tree.Add(rootfs.Regular("usr/share/"+m.Name, 0o644, []byte(m.ID()))); err != nil {
			t.Fatal(err)
		}
		var file bytes.Buffer
		m, err := apk.Write(&file, m, tree, key, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, arch, m.FileName()), file.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		metas = append(metas, m)
	}
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, metas, key, 1); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, arch, apk.IndexName), index.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, key.Name), public, 0o644); err != nil {
		t.Fatal(err)
	}
}

// The repository moves on, and the lock keeps the image; nothing is asked of a
// network.
func TestRun(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	key, err := apk.GenerateKey("theirs")
	if err != nil {
		t.Fatal(err)
	}
	repository, output, cache := t.TempDir(), t.TempDir(), t.TempDir()
	publish(t, repository, "1.0-r0", key)
	image := func() []byte {
		t.Helper()
		var out strings.Builder
		if err := run(t.Context(), output, repository, filepath.Join(repository, key.Name), []string{"hello"}, &out, build.WithCacheDir(cache), build.WithOffline(true)); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		made, err := os.ReadFile(filepath.Join(output, "root.ext4"))
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	first := image()
	for _, want := range []string{"hello-1.0-r0", "words-1.0-r0"} {
		if !bytes.Contains(first, []byte(want)) {
			t.Errorf("the image has no %s", want)
		}
	}
	l, err := lock.Load(filepath.Join(output, lock.FileName))
	if err != nil || len(l.Packages) != 2 || l.Packages[0].Version != "1.0-r0" {
		t.Fatalf("%+v, %v", l, err)
	}
	publish(t, repository, "2.0-r0", key)
	if !bytes.Equal(image(), first) {
		t.Error("the image followed the repository, past its lock")
	}
	if err := os.Remove(filepath.Join(output, lock.FileName)); err != nil {
		t.Fatal(err)
	}
	if second := image(); !bytes.Contains(second, []byte("hello-2.0-r0")) {
		t.Error("without a lock it is not what the repository has")
	}
}
