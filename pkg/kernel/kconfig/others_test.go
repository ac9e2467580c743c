package kconfig

import (
	"os"
	"testing"
)

// busyboxEnv names a busybox source after its scripts/gen_build_files.sh.
const busyboxEnv = "SOVEREIGN_BUSYBOX_SOURCE"

// What the port's configuration asks of busybox is kept, as by its own conf:
// the port's build fails otherwise.
func TestBusybox(t *testing.T) {
	dir := os.Getenv(busyboxEnv)
	if dir == "" {
		t.Skipf("%s does not name a busybox source", busyboxEnv)
	}
	tree, err := Parse(os.DirFS(dir), Options{Arch: "x86", File: "Config.in"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../../recipes/ports/busybox/busybox.config")
	if err != nil {
		t.Fatal(err)
	}
	asked := readValues(t, text)
	if n := len(tree.Symbols()); n < 1000 || len(asked) < 100 {
		t.Fatalf("%d symbols, %d asked for", n, len(asked))
	}
	r := tree.Evaluate(AllNo, asked)
	for _, v := range asked {
		if got := r.Value(v.Symbol); got != v.Value {
			t.Errorf("%s became %s", v.Text(), got)
		}
	}
}
