package hints

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

func TestOf(t *testing.T) {
	plain := fault.Errorf(fault.Usage, "no").Hintf("do it")
	for want, err := range map[string]error{
		"do it": plain,
		"do it: sovereign-build lock recipes/sql":                  remedy.By(remedy.Remedy{Kind: remedy.Lock, Recipe: "recipes/sql"}, plain),
		"do it: sovereign-build lock --update a --update b RECIPE": remedy.By(remedy.Remedy{Kind: remedy.Update, Inputs: []string{"a", "b"}}, plain),
		"sovereign-build store verify --repair":                    remedy.By(remedy.Remedy{Kind: remedy.RepairStore}, fault.Errorf(fault.Verification, "no")),
		"":                                                         fault.Errorf(fault.Usage, "no"),
	} {
		if got := Of(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	// Every kind there is has a command.
	file, err := parser.ParseFile(token.NewFileSet(), "../../pkg/remedy/remedy.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if kinds++; commandOf(remedy.Remedy{Kind: remedy.Kind(text), Inputs: []string{"x"}}) == "" {
				t.Errorf("the remedy %s is no command", text)
			}
		}
		return true
	})
	if kinds < 10 {
		t.Errorf("found %d kinds", kinds)
	}
}

// A program that imports the build has no command line of ours: what its
// packages say names none of its commands and flags.
func TestNoCommandsInPackages(t *testing.T) {
	command := regexp.MustCompile(`sovereign-build [a-z]|(^|[ (])--[a-z]`)
	// Of other programs, and of files that people read.
	fine := regexp.MustCompile(`git log|^# Written by|^#|xz -dc|^mount|^--`)
	for _, root := range []string{"build", "kernel", "rootfs", "bundle", "registry"} {
		err := filepath.WalkDir(filepath.Join("../../pkg", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(lit.Value)
				if err == nil && command.MatchString(text) && !fine.MatchString(text) {
					t.Errorf("%s: %q names the command line's own words: give the error a remedy", set.Position(lit.Pos()), text)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
