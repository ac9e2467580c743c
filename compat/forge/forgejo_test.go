package forge

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// TestForgejo has the forge of packages named and laid out as Alpine's: forgejo,
// which needs git-lfs and gnupg. What is in them is Gitea's program, as Alpine's
// repository cannot be reached from here: what is proven is that a recipe of
// twenty lines takes another program from a repository, and that everything
// around finds it.
func TestForgejo(t *testing.T) {
	m := newMachine(t)
	m.name = "forgejo"
	dir := t.TempDir()
	repository, key := alpines(t, dir)
	recipes := filepath.Join(dir, "recipes")
	if err := os.CopyFS(recipes, os.DirFS("../../recipes")); err != nil {
		t.Fatal(err)
	}
	recipe := filepath.Join(recipes, "forgejo")
	if err := os.CopyFS(recipe, os.DirFS("testdata/forgejo")); err != nil {
		t.Fatal(err)
	}
	lock, err := os.ReadFile(filepath.Join(recipes, "forge", "sovereign.lock"))
	if err == nil {
		err = os.WriteFile(filepath.Join(recipe, "sovereign.lock"), lock, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.bundle = filepath.Join(dir, "forgejo-"+runtime.GOARCH)
	cmd := exec.Command("../../bin/sovereign-build", "build", recipe, "--arch", runtime.GOARCH, "--progress", "plain",
		"--repository", repository, "--key", key, "-o", dir)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	m.boot(t)
	if out := m.exec(t, "sh", "-c", "cat /proc/$(pidof forgejo)/cmdline | tr '\\0' ' '"); !strings.Contains(out, "/usr/bin/forgejo") {
		t.Errorf("what runs is %q", out)
	}
	token := m.token(t, "ada")
	m.post(t, token, "/user/repos", `{"name": "work", "auto_init": true, "default_branch": "main"}`)
	g := m.git(t)
	g.run(t, "clone", "http://ada:"+token+"@"+m.web+"/ada/work.git", "work")
	g.write(t, "work/new.txt", "new\n")
	g.in(t, "work", "add", ".")
	g.in(t, "work", "commit", "-m", "New")
	g.in(t, "work", "push", "origin", "main") // a hook calls the program
	m.asGitea(t, "/usr/lib/sovereign/gitea-check")
}

// alpines makes a repository of packages as Alpine's, and returns its directory
// and the file of its key.
func alpines(t *testing.T, dir string) (repository, public string) {
	t.Helper()
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	made, err := filepath.Glob("../../dist/packages/" + arch + "/gitea-[0-9]*.apk")
	if err != nil || len(made) != 1 {
		t.Fatalf("packages of gitea: %q, %v", made, err)
	}
	keys, err := apk.LoadKeyring("../../dist/packages/sovereign-local.rsa.pub")
	if err != nil {
		t.Fatal(err)
	}
	gitea, err := apk.Open(made[0], keys)
	if err != nil {
		t.Fatal(err)
	}
	defer gitea.Close()
	program, ok := gitea.Tree.Lookup("usr/bin/gitea")
	if !ok {
		t.Fatal("the package gitea has no program")
	}
	program.Path = "usr/bin/forgejo"
	key, err := apk.GenerateKey("alpine@example.org")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Save(dir); err != nil {
		t.Fatal(err)
	}
	repository = filepath.Join(dir, "repository")
	if err := os.MkdirAll(filepath.Join(repository, arch), 0o755); err != nil {
		t.Fatal(err)
	}
	var metas []apk.Meta
	for _, p := range []struct {
		name, version string
		depends       []string
		entries       []rootfs.Entry
	}{
		{"forgejo", "16.0.0-r1", []string{"git", "git-lfs", "gnupg"}, []rootfs.Entry{program, rootfs.Regular("etc/forgejo/app.ini", 0o644, []byte("; the package's own\nRUN_MODE = dev\n"))}},
		{"git-lfs", "3.6.1-r0", []string{"git"}, []rootfs.Entry{rootfs.Regular("usr/bin/git-lfs", 0o755, []byte("#!/bin/sh\nexit 1\n"))}},
		{"gnupg", "2.4.8-r0", nil, []rootfs.Entry{rootfs.Regular("usr/bin/gpg", 0o755, []byte("#!/bin/sh\nexit 1\n"))}},
	} {
		tree := rootfs.New()
		for _, e := range p.entries {
			if err := tree.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		file, err := os.Create(filepath.Join(repository, arch, p.name+"-"+p.version+".apk"))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := apk.Write(file, apk.Meta{Name: p.name, Version: p.version, Arch: arch, License: "MIT", Depends: p.depends}, tree, key, 1)
		if err == nil {
			err = file.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		metas = append(metas, meta)
	}
	index, err := os.Create(filepath.Join(repository, arch, apk.IndexName))
	if err == nil {
		err = apk.WriteIndex(index, metas, key, 1)
	}
	if err == nil {
		err = index.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return repository, filepath.Join(dir, key.Name)
}
