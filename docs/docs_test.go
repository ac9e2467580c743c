// Package docs holds the tests of the documentation.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// Every module that the code imports directly is explained, and no other.
func TestDependencies(t *testing.T) {
	data, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	required := map[string]bool{}
	for _, r := range mod.Require {
		required[r.Mod.Path] = true
		if !r.Indirect && !strings.Contains(string(page), "`"+strings.Replace(r.Mod.Path, "golang.org/", "", 1)+"`") && !strings.Contains(string(page), "`"+r.Mod.Path+"`") {
			t.Errorf("dependencies.md does not say what %s is for", r.Mod.Path)
		}
	}
	// A program of ours that is a module of its own has its own.
	for _, dir := range []string{"backup", "sigstore"} {
		if data, err = os.ReadFile("../" + dir + "/go.mod"); err != nil {
			t.Fatal(err)
		}
		if mod, err = modfile.Parse("go.mod", data, nil); err != nil {
			t.Fatal(err)
		}
		for _, r := range mod.Require {
			required[r.Mod.Path] = true
		}
	}
	module := regexp.MustCompile("`([a-z0-9-]+\\.[a-z]+/[A-Za-z0-9./-]+)`")
	for _, m := range module.FindAllStringSubmatch(string(page), -1) {
		if !required[m[1]] {
			t.Errorf("dependencies.md explains %s, which go.mod does not require", m[1])
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)

// Every relative link leads to a file.
func TestLinks(t *testing.T) {
	pages := []string{"../README.md", "../CHANGELOG.md", "../recipes/ports/README.md"}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
			}
		}
	}
}
