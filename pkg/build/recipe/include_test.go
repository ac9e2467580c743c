package recipe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// including writes a recipe that includes testdata's (with %s for where it is)
// and returns its file.
func including(t *testing.T, text string) (file, base string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "demo"), os.DirFS(good)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "own"), 0o755); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "own", FileName)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file, filepath.Join(dir, "demo", FileName)
}

const head = "schema: 1\nname: own\nsummary: Another\ninclude: ../demo\n"

// A recipe that says nothing of its own is the included one under its name.
func TestIncludeAlone(t *testing.T) {
	file, base := including(t, head)
	got, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Load(base)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "own" || got.Summary != "Another" {
		t.Errorf("it is %s, %s", got.Name, got.Summary)
	}
	ignore := cmpopts.IgnoreFields(Recipe{}, "Name", "Summary", "Path", "Dir", "FS")
	if d := cmp.Diff(resolved(want), resolved(got), ignore, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s", d)
	}
}

// TestIncludeWithout takes a package of the other recipe's away.
func TestIncludeWithout(t *testing.T) {
	_, base := including(t, head)
	want, err := Load(base)
	if err != nil {
		t.Fatal(err)
	}
	gone := packageName(want.Packages[0])
	file, _ := including(t, head+"packages: [\"!"+gone+"\", \"!other\", forgejo]\n")
	got, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	want.Packages[0] = "!" + gone
	if d := cmp.Diff(append(want.Packages, "!other", "forgejo"), got.Packages); d != "" {
		t.Errorf("%s", d)
	}
	for constraint, want := range map[string]string{"git": "git", "git>=2.47": "git", "git~2": "git", "git@edge": "git", "so:libz.so.1": "so:libz.so.1"} {
		if got := packageName(constraint); got != want {
			t.Errorf("%s is of %q, want %q", constraint, got, want)
		}
	}
}

// resolved has every path of the recipe absolute.
func resolved(r *Recipe) *Recipe {
	r.eachPath(func(p *string) {
		if *p != "" {
			*p = r.Resolve(*p).Name
		}
	})
	return r
}

func TestIncludeOver(t *testing.T) {
	file, base := including(t, head+`packages: [gitea]
vm: {memory: 1GiB, cpus: 1, data: 1GiB}
users:
  - {name: git, uid: 90}
  - {name: log, uid: 81}
files:
  - {path: /etc/motd, content: "own\n"}
  - {path: /etc/own, from: own.conf}
services:
  - name: web
    ports: []
    secrets: []
    health: {command: [/usr/bin/own, check]}
  - name: git
    user: git
    command: [/usr/bin/git]
    after: [web]
    health: {command: [/usr/bin/true]}
`)
	own := filepath.Join(filepath.Dir(file), "own.conf")
	if err := os.WriteFile(own, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Load(base)
	if err != nil {
		t.Fatal(err)
	}
	resolved(want)
	want.Packages = append(want.Packages, "gitea")
	want.VM = VM{Memory: 1 * GiB, CPUs: 1, Data: 1 * GiB}
	want.Users[1] = User{Name: "log", UID: 81, Home: "/", Shell: "/sbin/nologin"}
	want.Users = append(want.Users, User{Name: "git", UID: 90, Home: "/", Shell: "/sbin/nologin"})
	want.Files[0].Content = "own\n"
	want.Files = append(want.Files, File{Path: "/etc/own", From: own, Mode: "0644", User: "root"})
	web := &want.Services[1]
	web.Ports, web.Secrets = nil, nil
	web.Health = Health{Command: []string{"/usr/bin/own", "check"}}
	want.Services = append(want.Services, Service{Name: "git", User: "git", Command: []string{"/usr/bin/git"}, After: []string{"web"}, Health: Health{Command: []string{"/usr/bin/true"}}})
	want.fill()
	ignore := cmpopts.IgnoreFields(Recipe{}, "Name", "Summary", "Path", "Dir", "FS")
	if d := cmp.Diff(want, resolved(got), ignore, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s", d)
	}
}

// Errors name the file that a value stands in.
func TestIncludeErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"schema: 1\nname: own\nsummary: x\ninclude: ../none\n", "OWN:4:10: there is no recipe to include at DIR/none/recipe.yaml"},
		{"schema: 1\nname: own\nsummary: x\ninclude: ../own\n", "OWN:4:10: more than 8 recipes include each other, perhaps in a circle"},
		{"schema: 1\nname: own\ninclude: ../demo\n", `OWN:1:1: key "summary" is missing at the top of the file`},
		{head + "vm: {memory: 1GiB, cpus: 1}\n", `OWN:5:5: key "data" is missing in vm`},
		{head + "services:\n  - name: git\n    user: web\n", `OWN:6:5: key "command" is missing in services[3]`},
		{head + "users:\n  - {name: git, uid: 80}\n", "OWN:6:22: uid 80 is used twice, first in BASE:23"},
		{head + "services:\n  - name: log\n    after: [vpn, webb]\n", `OWN:7:18: unknown service "webb", did you mean "web"?`},
		// The included one is at fault for what the other took away from it.
		{head + "services:\n  - name: web\n    secrets: []\n", `BASE:77:14: unknown secret "password"`},
	} {
		file, base := including(t, tt.text)
		_, err := Load(file)
		if err == nil || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		dir := filepath.Dir(filepath.Dir(file))
		want := strings.NewReplacer("OWN", file, "BASE", base, "DIR", dir).Replace(tt.want)
		if !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %s\nwant %s", err, want)
		}
	}
	r := Recipe{Name: "own", Include: "../demo"}
	if _, err := r.Checked(); err == nil || fault.HintOf(err) == "" {
		t.Errorf("a value with include: %v", err)
	}
}
