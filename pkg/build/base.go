package build

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// baseDirs are the directories every root image has, because the guest mounts
// something on each or a program expects it. The root is read-only, so what is
// missing here cannot be made later.
var baseDirs = []struct {
	path string
	mode fs.FileMode
}{
	{"data", 0o755},
	{"dev", 0o755},
	{"etc", 0o755},
	{"proc", 0o555},
	{"root", 0o700},
	{"run", 0o755},
	{"sys", 0o555},
	{"tmp", 0o777 | fs.ModeSticky},
	{"var", 0o755},
}

// baseLinks point what must be writable at the tmpfs on /run and /tmp.
var baseLinks = []struct{ path, target string }{
	{"etc/mtab", "../proc/mounts"},
	{"etc/resolv.conf", "../run/resolv.conf"},
	{"var/run", "../run"},
	{"var/tmp", "../tmp"},
}

// baseTree is what a root image holds before packages and the recipe's own
// files: mount points, accounts, the guest spec.
func baseTree(r *recipe.Recipe, guest spec.Spec) (*rootfs.Tree, error) {
	t := rootfs.New()
	for _, d := range baseDirs {
		if err := t.Set(rootfs.Entry{Path: d.path, Mode: fs.ModeDir | d.mode}); err != nil {
			return nil, err
		}
	}
	for _, l := range baseLinks {
		if err := t.Add(rootfs.Entry{Path: l.path, Mode: fs.ModeSymlink | 0o777, Link: l.target}); err != nil {
			return nil, err
		}
	}
	text, err := json.MarshalIndent(guest, "", "  ")
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		path, content string
		mode          fs.FileMode
	}{
		{"etc/group", groupFile(r.Users), 0o644},
		{"etc/hostname", r.Name + "\n", 0o644},
		{"etc/hosts", fmt.Sprintf("127.0.0.1 localhost %[1]s\n::1 localhost %[1]s\n", r.Name), 0o644},
		{"etc/os-release", fmt.Sprintf("ID=sovereign\nNAME=Sovereign\nPRETTY_NAME=\"Sovereign %s\"\nVARIANT_ID=%s\n", r.Name, r.Name), 0o644},
		{"etc/passwd", passwdFile(r.Users), 0o644},
		// No account has a password; nobody logs in.
		{"etc/shadow", shadowFile(r.Users), 0o640},
		{strings.TrimPrefix(spec.Path, "/"), string(text) + "\n", 0o644},
	} {
		if err := addText(t, f.path, f.content, f.mode); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func addText(t *rootfs.Tree, path, content string, mode fs.FileMode) error {
	return t.Add(rootfs.Entry{Path: path, Mode: mode, Size: int64(len(content)), Content: rootfs.Bytes([]byte(content))})
}

// sortedUsers are the recipe's accounts by number, after root.
func sortedUsers(users []recipe.User) []recipe.User {
	all := append([]recipe.User{
		{Name: "root", UID: 0, Home: "/root", Shell: "/bin/sh"},
		{Name: "nobody", UID: 65534, Home: "/", Shell: "/sbin/nologin"},
	}, users...)
	slices.SortFunc(all, func(a, b recipe.User) int { return cmp.Compare(a.UID, b.UID) })
	return all
}

func passwdFile(users []recipe.User) string {
	var b strings.Builder
	for _, u := range sortedUsers(users) {
		fmt.Fprintf(&b, "%s:x:%d:%d:%s:%s:%s\n", u.Name, u.UID, u.UID, u.Name, cmp.Or(u.Home, "/"), cmp.Or(u.Shell, "/sbin/nologin"))
	}
	return b.String()
}

func groupFile(users []recipe.User) string {
	var b strings.Builder
	for _, u := range sortedUsers(users) {
		fmt.Fprintf(&b, "%s:x:%d:\n", u.Name, u.UID)
	}
	return b.String()
}

func shadowFile(users []recipe.User) string {
	var b strings.Builder
	for _, u := range sortedUsers(users) {
		fmt.Fprintf(&b, "%s:!::0:::::\n", u.Name)
	}
	return b.String()
}
