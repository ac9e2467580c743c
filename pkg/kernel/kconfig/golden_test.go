package kconfig

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// What the toolchain is said to answer is what it answers: the recipes'
// fragments lead to the very .config that the kernel's own makefiles made of
// them with that toolchain.
func TestClang19(t *testing.T) {
	dir := source(t)
	for _, arch := range []string{"x86", "arm64"} {
		asked := recipeFragments(t, arch)
		tree, err := Parse(os.DirFS(dir), Options{Arch: arch})
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("../testdata", arch+".config"))
		if err != nil {
			t.Fatal(err)
		}
		if got := tree.Evaluate(AllNo, asked).Bytes(); !bytes.Equal(got, want) {
			t.Errorf("%s: %s", arch, firstDifference(got, want))
		}
		x := tree.Explainer(AllNo, nil, asked)
		for _, v := range asked {
			if e := x.Explain(v); !kept(e.Asked, e.Got) {
				t.Errorf("%s: %s", arch, e)
			}
		}
	}
}

// recipeFragments are what the recipes' fragments ask for on an architecture.
func recipeFragments(t *testing.T, arch string) []Value {
	t.Helper()
	values := map[string]Value{}
	var order []string
	for _, pattern := range []string{"*.config", filepath.Join("arch", arch+"*.config")} {
		files, err := filepath.Glob(filepath.Join("../../../recipes/kernel", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range readValues(t, text) {
				if _, ok := values[v.Symbol]; !ok {
					order = append(order, v.Symbol)
				}
				values[v.Symbol] = v
			}
		}
	}
	var asked []Value
	for _, symbol := range order {
		asked = append(asked, values[symbol])
	}
	return asked
}

// The fragments lead to a kernel for riscv64 too, of which no other proof is
// there yet: it has what a machine under QEMU needs.
func TestRISCV(t *testing.T) {
	tree, err := Parse(os.DirFS(source(t)), Options{Arch: "riscv"})
	if err != nil {
		t.Fatal(err)
	}
	asked := recipeFragments(t, "riscv")
	x := tree.Explainer(AllNo, nil, asked)
	for _, v := range asked {
		if e := x.Explain(v); !kept(e.Asked, e.Got) {
			t.Errorf("%s", e)
		}
	}
	r := tree.Evaluate(AllNo, asked)
	for _, symbol := range []string{"64BIT", "MMU", "SMP", "VIRTIO_BLK", "EROFS_FS", "DM_VERITY", "SERIAL_OF_PLATFORM", "PCI_HOST_GENERIC", "SIFIVE_PLIC", "RISCV_TIMER"} {
		if got := r.Value(symbol); got != "y" {
			t.Errorf("%s is %s", symbol, got)
		}
	}
}

// Every symbol that a requirement set names is one of this kernel.
func TestRequirementSets(t *testing.T) {
	dir := source(t)
	for _, arch := range []string{"x86", "arm64"} {
		tree, err := Parse(os.DirFS(dir), Options{Arch: arch})
		if err != nil {
			t.Fatal(err)
		}
		sets, err := filepath.Glob("../require/*.config")
		if err != nil || len(sets) == 0 {
			t.Fatalf("%d sets, %v", len(sets), err)
		}
		for _, set := range sets {
			name := filepath.Base(set)
			if arch == "x86" && (name == "crosvm-arm64.config" || name == "pkvm-guest.config") {
				continue
			}
			text, err := os.ReadFile(set)
			if err != nil {
				t.Fatal(err)
			}
			asked := readValues(t, text)
			x := tree.Explainer(AllNo, nil, asked)
			var lost []Explanation
			for _, v := range asked {
				e := x.Explain(v)
				if e.Never != "" || len(e.Breaks) > 0 {
					t.Errorf("%s on %s: %s", name, arch, e)
				}
				if len(e.Add) > 0 {
					lost = append(lost, e)
				}
			}
			add, left := x.Together(lost)
			t.Logf("%s on %s: %d symbols, with %d others: %s", name, arch, len(asked), len(add), sayValues(add))
			if len(left) > 0 {
				t.Errorf("%s on %s: lost even so: %v", name, arch, left)
			}
		}
	}
}
