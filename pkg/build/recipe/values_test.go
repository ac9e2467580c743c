package recipe

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var elsewhere = cmpopts.IgnoreFields(Recipe{}, "FS", "Dir", "Path")

// The same recipe, wherever it is read from.
func TestParse(t *testing.T) {
	want, err := Load(good)
	if err != nil {
		t.Fatal(err)
	}
	fsys := os.DirFS("testdata")
	got, err := Parse(fsys, "recipe/"+FileName)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, elsewhere); d != "" {
		t.Error(d)
	}
	if got.Path != "recipe/recipe.yaml" || got.Dir != "recipe" {
		t.Errorf("path %q, dir %q", got.Path, got.Dir)
	}
	if _, onDisk := got.Resolve("base.config").OnDisk(); onDisk {
		t.Error("a file of an fs.FS is said to be on the disk")
	}
	ports, err := got.LoadPorts()
	if err != nil {
		t.Fatal(err)
	}
	if ports["zlib"] == nil || ports["zlib"].Dir.Name != "recipe/ports/zlib" {
		t.Errorf("ports %v", ports)
	}
	// A recipe that was read is as it would be made in Go.
	checked, err := got.Checked()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, checked, elsewhere); d != "" {
		t.Error(d)
	}

	_, err = Parse(fsys, "recipe/none.yaml")
	wantFault(t, err, "recipe/none.yaml: there is no recipe here")
	_, err = Parse(fstest.MapFS{"r.yaml": {Data: []byte("schema: 1\nname: X\n")}}, "r.yaml")
	wantFault(t, err, `r.yaml:1:1: key "summary" is missing at the top of the file`)
	sub := os.DirFS(good) // nothing above it can be named
	data, err := os.ReadFile(good + "/" + FileName)
	if err != nil {
		t.Fatal(err)
	}
	above := fstest.MapFS{FileName: {Data: []byte(strings.Replace(string(data), "toolchain: toolchain", "toolchain: ../toolchain", 1))}}
	if _, err := Parse(above, FileName); err == nil || !strings.Contains(err.Error(), "toolchain") {
		t.Errorf("a toolchain above the file system: %v", err)
	}
	if _, err := Parse(sub, FileName); err != nil {
		t.Error(err)
	}
}

func TestMadeInGo(t *testing.T) {
	made := func() *Recipe {
		return &Recipe{
			Name: "demo", Architectures: []string{"amd64"},
			FS:       os.DirFS(good),
			Packages: []string{"web"},
			Users:    []User{{Name: "web", UID: 80}},
			Files:    []File{{Path: "/etc/empty"}, {Path: "/etc/web", From: "setup.sh", User: "web"}},
			Services: []Service{{Name: "web", User: "web", Command: []string{"/bin/web"}, Health: Health{Command: []string{"/bin/true"}}}},
		}
	}
	r := made()
	checked, err := r.Checked()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(made(), r, elsewhere); d != "" {
		t.Errorf("checking changed the recipe: %s", d)
	}
	if checked.Schema != Schema || checked.Dir != "." || checked.Files[0].Mode != "0644" || checked.Services[0].Stop.Signal != "TERM" {
		t.Errorf("defaults are missing: %+v", checked)
	}
	again, err := checked.Checked()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(checked, again, cmpopts.IgnoreFields(Recipe{}, "FS")); d != "" {
		t.Error(d)
	}

	for want, change := range map[string]func(*Recipe){
		`recipe: recipe name "" is not a name: lower case letters, digits and dashes, beginning with a letter, at most 32`: func(r *Recipe) { r.Name = "" },
		`recipe: architectures is empty, list amd64, arm64 or riscv64`:                                                     func(r *Recipe) { r.Architectures = nil },
		`recipe: path "/etc/empty" is used twice, first as files[0].path`:                                                  func(r *Recipe) { r.Files[1].Path = "/etc/empty" },
		`recipe: file is missing: there is no none.sh`:                                                                     func(r *Recipe) { r.Files[1].From = "none.sh" },
		`recipe: file "/etc/web" has from and link, exactly one of from, content, link and directory is needed`:            func(r *Recipe) { r.Files[1].Link = "x" },
		`recipe: unknown user "wob", did you mean "web"?`:                                                                  func(r *Recipe) { r.Services[0].User = "wob" },
		`recipe: services[0].health.command is empty`:                                                                      func(r *Recipe) { r.Services[0].Health.Command = nil },
		`recipe: kernel.fragments is empty, allnoconfig alone boots nothing`:                                               func(r *Recipe) { r.Kernel.Source = "linux" },
		`recipe: unknown source "linux", there are none`: func(r *Recipe) {
			r.Kernel = Kernel{Source: "linux", Fragments: []string{"base.config"}}
		},
		`recipe: vm.cpus is 0, allowed are 1 to 64`: func(r *Recipe) { r.VM = VM{Memory: 64 * MiB, Data: 64 * MiB} },
		`recipe: the step has none of its kinds, exactly one of group, user, member, directory, link, file and applets is needed`: func(r *Recipe) {
			r.Actions = []Action{{Package: "a", Script: "trigger", Digest: "sha256:" + strings.Repeat("0", 64), Steps: []Step{{}}}}
		},
		`mine.yaml: schema is 2, this program reads 1`: func(r *Recipe) { r.Schema, r.Path = 2, "mine.yaml" },
	} {
		r := made()
		change(r)
		_, err := r.Checked()
		wantFault(t, err, want)
	}
}
