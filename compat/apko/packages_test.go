package apko

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apko "chainguard.dev/apko/pkg/apk/apk"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// TestRealSignatures reads what others have signed: Alpine with RSA and SHA-1,
// melange with RSA256, an index with three signatures; and refuses each with
// another key of the same name.
func TestRealSignatures(t *testing.T) {
	alpineKey, melangeKey, indexKey := alpineKeys(t), keyring(t, filepath.Join(apkoDir(t), "internal/cli/testdata/melange.rsa.pub")), keyring(t, testdata(t, "signing/keys"))
	for name, c := range map[string]struct {
		keys apk.Keyring
		read func(apk.Keyring) error
	}{
		"package, RSA":    {alpineKey, readMeta(testdata(t, "alpine-317/alpine-baselayout-3.4.0-r0.apk"))},
		"package, RSA256": {melangeKey, readMeta(filepath.Join(apkoDir(t), "internal/cli/testdata/packages/x86_64/replayout-1.0.0-r0.apk"))},
		"index, RSA":      {alpineKey, readIndex(testdata(t, "alpine-316/APKINDEX.tar.gz"))},
		"index, RSA256":   {keyring(t, testdata(t, "rsa256-signed/test-rsa256.rsa.pub")), readIndex(testdata(t, "rsa256-signed/APKINDEX.tar.gz"))},
		"index, three":    {indexKey, readIndex(testdata(t, "signing/APKINDEX.tar.gz"))},
	} {
		if err := c.read(c.keys); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(c.keys) > 1 && name == "index, three" {
			for one, key := range c.keys {
				if err := c.read(apk.Keyring{one: key}); err != nil {
					t.Errorf("%s: with %s alone: %v", name, one, err)
				}
			}
		}
		other := apk.Keyring{}
		stranger := keyring(t, testdata(t, "alpine-316/alpine-devel@lists.alpinelinux.org-4a6a0840.rsa.pub"))
		for trusted := range c.keys {
			for _, key := range stranger {
				other[trusted] = key
			}
		}
		for what, keys := range map[string]apk.Keyring{"no key": {}, "another key of that name": other} {
			if err := c.read(keys); fault.ClassOf(err) != fault.Verification {
				t.Errorf("%s: with %s: %v", name, what, err)
			}
		}
	}
}

func keyring(t *testing.T, path string) apk.Keyring {
	t.Helper()
	keys, err := apk.LoadKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func readMeta(path string) func(apk.Keyring) error {
	return func(keys apk.Keyring) error {
		_, err := apk.ReadMeta(path, keys)
		return err
	}
}

func readIndex(path string) func(apk.Keyring) error {
	return func(keys apk.Keyring) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = apk.ReadIndex(f, keys)
		return err
	}
}

// TestRealIndexes compares what both read of Alpine's indexes, every field of
// every package.
func TestRealIndexes(t *testing.T) {
	for _, release := range []string{"alpine-316", "alpine-317"} {
		ours, theirs := alpine(t, release)
		if len(ours.Packages) != theirs.Count() || theirs.Count() < 4000 {
			t.Fatalf("%s: %d packages, apko has %d", release, len(ours.Packages), theirs.Count())
		}
		for i, want := range theirs.Packages() {
			compareMeta(t, ours.Packages[i], want.Package)
		}
	}
}

func compareMeta(t *testing.T, m apk.Meta, want *apko.Package) {
	t.Helper()
	for field, ok := range map[string]bool{
		"name": m.Name == want.Name, "version": m.Version == want.Version, "arch": m.Arch == want.Arch, "description": m.Description == want.Description,
		"license": m.License == want.License, "origin": m.Origin == want.Origin, "maintainer": m.Maintainer == want.Maintainer, "url": m.URL == want.URL,
		"checksum":   m.Checksum == "Q1"+base64.StdEncoding.EncodeToString(want.Checksum),
		"depends":    slices.Equal(m.Depends, want.Dependencies),
		"provides":   slices.Equal(m.Provides, want.Provides),
		"install_if": slices.Equal(m.InstallIf, want.InstallIf),
		"replaces":   slices.Equal(m.Replaces, want.Replaces),
		"size":       m.Size == int64(want.Size), "installed size": m.InstalledSize == int64(want.InstalledSize),
		"provider_priority": m.ProviderPriority == int(want.ProviderPriority),
		"commit":            m.Commit == want.RepoCommit, "build date": m.BuildDate == want.BuildDate,
	} {
		if !ok {
			t.Errorf("%s: %s differs: %+v, apko's %+v", m.ID(), field, m, want)
		}
	}
}

// TestRealPackages installs packages that Alpine and melange made with both.
func TestRealPackages(t *testing.T) {
	key, err := apk.GenerateKey("ours")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "aarch64"), 0o755); err != nil {
		t.Fatal(err)
	}
	var metas []apk.Meta
	add := func(data []byte, m apk.Meta) {
		if err := os.WriteFile(filepath.Join(dir, "aarch64", m.FileName()), data, 0o644); err != nil {
			t.Fatal(err)
		}
		metas = append(metas, m)
	}
	for _, path := range []string{testdata(t, "alpine-317/alpine-baselayout-3.4.0-r0.apk"), testdata(t, "replaces/replaces-0.0.1-r0.apk"), filepath.Join(apkoDir(t), "pkg/apk/fs/testdata/hello-2.12-r0.apk")} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := apko.ParsePackage(t.Context(), bytes.NewReader(data), uint64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		p, err := apk.Open(path, nil, apk.Pinned(apk.Meta{Checksum: "Q1" + base64.StdEncoding.EncodeToString(want.Checksum)}))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if p.Meta.Maintainer == "" {
			want.Maintainer = ""
		}
		compareMeta(t, p.Meta, want)
		add(data, p.Meta)
	}
	// What these need of packages that are not in the test data.
	var b bytes.Buffer
	stub, err := apk.Write(&b, apk.Meta{Name: "stubs", Version: "1-r0", Arch: "aarch64",
		Provides: []string{"alpine-baselayout-data=3.2.0-r23", "/bin/sh", "so:libc.musl-aarch64.so.1=1", "so:ld-linux-aarch64.so.1=1", "so:libc.so.6=6"}}, rootfs.New(), key, epoch)
	if err != nil {
		t.Fatal(err)
	}
	add(b.Bytes(), stub)
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, metas, key, epoch); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "aarch64", apk.IndexName), index.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := key.Save(dir); err != nil {
		t.Fatal(err)
	}
	agreeOn(t, dir, "aarch64", filepath.Join(dir, key.Name), []string{"alpine-baselayout", "hello", "replaces"}, true)

	repository, err := apk.OpenRepository(t.Context(), dir, "aarch64", key.Keyring())
	if err != nil {
		t.Fatal(err)
	}
	selected, err := apk.Solve(t.Context(), []string{"alpine-baselayout"}, []apk.Repository{repository})
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := apk.Scripts(t.Context(), selected)
	if err != nil || len(scripts) != 2 || scripts[0].Kind != "pre-install" || !strings.Contains(scripts[1].Text, "#!/bin/sh") {
		t.Errorf("alpine-baselayout's scripts are %+v, %v", scripts, err)
	}
	spool, err := rootfs.NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	err = apk.Install(t.Context(), rootfs.New(), selected, apk.InstallOptions{Spool: spool})
	if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(scripts[0].Text)) || !strings.Contains(err.Error(), scripts[0].Digest) {
		t.Errorf("a script that nothing stands for: %v", err)
	}
}
