package build

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/sums"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestCheckSums(t *testing.T) {
	dir := t.TempDir()
	var said bytes.Buffer
	// build is a build whose steps made this, in this mode.
	build := func(mode SumsMode, epoch int64, outputs ...string) (*Builder, error) {
		said.Reset()
		b := &Builder{
			opts: &options{sums: mode, events: func(e Event) { fmt.Fprintln(&said, e) }}, recipe: &recipe.Recipe{Name: "demo", Dir: dir},
			arch: testArch(t), lock: &lock.Lock{SourceDate: 1}, epoch: epoch, manifest: store.FromBytes([]byte(strings.Join(outputs, " "))),
		}
		for _, o := range outputs {
			step, text, _ := strings.Cut(o, "=")
			in := inputs{"step": step}
			key, err := in.key()
			if err != nil {
				t.Fatal(err)
			}
			b.made("port "+step+" amd64", key, madeOf(step, text))
			if mode == SumsWrite { // a build from nothing, as who writes sums may do
				b.made("go toolchain", key, map[string]store.Digest{"tar": store.FromBytes([]byte("go"))})
			}
		}
		return b, b.checkSums()
	}

	if b, err := build(SumsCompare, 1, "a=1"); err != nil || b.result.Sums != nil {
		t.Errorf("without a file: %v, %+v", err, b.result.Sums)
	}
	if _, err := build(SumsCheck, 1, "a=1"); fault.ClassOf(err) != fault.Differ {
		t.Errorf("checked without a file: %v", err)
	}
	if _, err := build(SumsWrite, 1, "a=1", "b=1"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, sums.File))
	if err != nil || strings.Count(string(text), "\n") != 2+2+1 || strings.Contains(string(text), metasOutput) || strings.Contains(string(text), "go toolchain") {
		t.Errorf("%v\n%s", err, text)
	}
	if b, err := build(SumsCheck, 1, "b=1", "a=1"); err == nil {
		t.Errorf("the bundle is another, and nobody says so: %+v", b.result.Sums)
	}
	if b, err := build(SumsCheck, 1, "a=1", "b=1"); err != nil || b.result.Sums.Outputs != 3 || len(b.result.Sums.Differences) != 0 {
		t.Errorf("the same: %v, %+v", err, b.result.Sums)
	}
	b, err := build(SumsCompare, 1, "b=2", "a=1")
	if err != nil || len(b.result.Sums.Differences) != 2 || !b.result.Sums.Differences[0].SameInputs {
		t.Errorf("another output: %v, %+v", err, b.result.Sums)
	}
	if !strings.Contains(said.String(), "port b amd64: apk b is") || !strings.Contains(said.String(), "(the first of 2)") {
		t.Errorf("said %q", said.String())
	}
	if _, err := build(SumsCheck, 1, "b=2", "a=1"); fault.ClassOf(err) != fault.Differ || !strings.Contains(err.Error(), "port b amd64") {
		t.Errorf("checked: %v", err)
	}
	if b, err := build(SumsCompare, 2, "b=2"); err != nil || b.result.Sums != nil {
		t.Errorf("another time stamp: %v, %+v", err, b.result.Sums)
	}
	if _, err := build(SumsWrite, 2, "b=2"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("written with another time stamp: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, sums.File), []byte("nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := build(SumsCompare, 1, "a=1"); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "sovereign.sums:1: ") {
		t.Errorf("a file of nonsense: %v", err)
	}
}

func madeOf(name, text string) outputs {
	return outputs{"apk " + name: store.FromBytes([]byte(text)), metasOutput: store.FromBytes([]byte("words"))}
}
