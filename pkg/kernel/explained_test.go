package kernel

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel/kconfig"
)

func diskTree(t *testing.T) (*kconfig.Tree, Arch) {
	t.Helper()
	a, err := ArchOf("amd64")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Kconfig(disks(), a)
	if err != nil {
		t.Fatal(err)
	}
	return tree, a
}

func TestExplained(t *testing.T) {
	tree, a := diskTree(t)
	asked, overrides := Merge(
		fragment(t, "virtio.config", "# The root disk.\nCONFIG_VIRTIO_BLK=y\n\n# CPUs.\nCONFIG_NR=4\n"),
		fragment(t, "more.config", "# More CPUs.\nCONFIG_NR=64\n\n# Interrupts.\nCONFIG_GIC=y\n"))
	e := Explain(tree, a, nil, asked)
	e.Overrides = overrides
	var b strings.Builder
	if err := e.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := `more.config:2: CONFIG_NR=64 overrides 4 from virtio.config:5
Linux 6.12, x86: 3 of 3 symbols asked for are lost

more.config:5: GIC=y lost. Cannot be met: no Kconfig file of this architecture has it; arch/arm64/Kconfig:1 does, which another one reads
  wanted because: Interrupts.

more.config:2: NR=64 became 8. Cannot be met: its range is 1 to 8 (Kconfig:7)
  wanted because: More CPUs.

virtio.config:2: VIRTIO_BLK=y lost: needs BLK_DEV (n; needs BLOCK (n)). Add BLOCK=y and BLK_DEV=y
  wanted because: The root disk.

Add to a fragment:

CONFIG_BLOCK=y
CONFIG_BLK_DEV=y

Still lost then: GIC, NR
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
	j, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"arch":"x86","asked":3,"ok":false`, `"add":[{"symbol":"BLOCK","value":"y"},{"symbol":"BLK_DEV","value":"y"}]`, `"unmet":[{"text":"needs BLK_DEV","symbol":"BLK_DEV","value":"n"`} {
		if !strings.Contains(string(j), part) {
			t.Errorf("JSON lacks %s: %s", part, j)
		}
	}
	// With a .config to start from, what is on there helps, and defaults count.
	base := config(t, "#\n# Automatically generated file; DO NOT EDIT.\n# Linux\n#\nCONFIG_BLOCK=y\nCONFIG_BLK_DEV=y\n# CONFIG_GONE is not set\n")
	if !base.Whole() {
		t.Error("taken for a fragment")
	}
	m, _ := Merge(fragment(t, "f", "CONFIG_VIRTIO_BLK=y\nCONFIG_LOOP=y\n"))
	if e := Explain(tree, a, base, m); !e.OK || len(e.Lost) > 0 || e.Add == nil {
		t.Errorf("lost from a .config: %v", e.Lost)
	}
	m, _ = Merge(base)
	if e := Explain(tree, a, base, m); !e.OK {
		t.Errorf("a .config refuses a symbol that is gone: %v", e.Lost)
	}
}

func TestExplainError(t *testing.T) {
	tree, _ := diskTree(t)
	asked, _ := Merge(fragment(t, "f.config", "# The root disk.\nCONFIG_VIRTIO_BLK=y\n"))
	err := ExplainError(VerifyError(asked, config(t, ""), Notes{}), tree, asked)
	want := "kernel: 1 of 1 symbols asked for are not in the final .config\n" +
		"  f.config:2: VIRTIO_BLK=y lost: needs BLK_DEV (n; needs BLOCK (n)). Add BLOCK=y and BLK_DEV=y; wanted because: The root disk."
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if fault.ClassOf(err) != fault.Verification || fault.HintOf(err) != "add to a fragment:\nCONFIG_BLOCK=y\nCONFIG_BLK_DEV=y" {
		t.Errorf("class %d, hint %q", fault.ClassOf(err), fault.HintOf(err))
	}
	other := errors.New("other")
	if got := ExplainError(other, tree, asked); got != other {
		t.Errorf("%v came out", got)
	}
	if ExplainError(nil, tree, asked) != nil {
		t.Error("an error out of none")
	}
}

func TestDiffByKconfig(t *testing.T) {
	tree, _ := diskTree(t)
	var b strings.Builder
	before := fragment(t, "a", "CONFIG_BLOCK=y\nCONFIG_ELSE=1\n")
	after := fragment(t, "b", "CONFIG_BLOCK=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_NR=3\n")
	if err := WriteDiff(&b, DiffBy(before, after, KconfigMenus(tree))); err != nil {
		t.Fatal(err)
	}
	want := "(no menu)\n  - ELSE=1\n\nDevice Drivers\n  + VIRTIO_BLK=y\n\nGeneral setup\n  + NR=3\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}
