package kconfig

import (
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	const disks = `config MODULES
	bool "modules"
	modules
config BLOCK
	bool "block"
menuconfig BLK_DEV
	bool "block devices"
	depends on BLOCK
if BLK_DEV
config VIRTIO_BLK
	tristate "virtio block"
	depends on VIRTIO
	select SG
endif
config SG
	bool
config VIRTIO
	bool
config VIRTIO_PCI
	bool "virtio pci"
	depends on PCI
	select VIRTIO
config PCI
	bool "pci"
config OLD
	bool "old"
	depends on !PCI && (BLOCK || NOWHERE)
config ARM_ONLY
	bool "arm"
	depends on ARM64
choice
	prompt "one of"
config ONE
	bool "one"
config TWO
	bool "two"
endchoice
choice
	prompt "lone"
config LONE
	bool "lone"
endchoice
config NUM
	int "num"
	range 1 8
config BIG
	bool "big"
	depends on NUM > 4
config TRI
	tristate "tri"
config FREE
	bool "free" if EXPERT
	default y
config EXPERT
	bool "expert"
config DERIVED
	def_bool PCI && BLOCK
config NEEDS_DERIVED
	bool "needs"
	depends on DERIVED
config MOD
	tristate "mod"
	depends on m
config SUB
	tristate "sub"
	depends on TRI
`
	tests := []struct{ asked, want string }{
		{"BLOCK=y", "BLOCK=y kept"},
		{"BLK_DEV=y", "BLK_DEV=y lost: needs BLOCK (n). Add BLOCK=y"},
		{"VIRTIO_BLK=y", "VIRTIO_BLK=y lost: needs BLK_DEV (n; needs BLOCK (n)); needs VIRTIO (n; selected by VIRTIO_PCI). Add BLOCK=y, BLK_DEV=y, PCI=y and VIRTIO_PCI=y"},
		{"BLOCK=y VIRTIO_BLK=m", "VIRTIO_BLK=m lost: needs BLK_DEV (n); needs VIRTIO (n; selected by VIRTIO_PCI). Add BLK_DEV=y, PCI=y and VIRTIO_PCI=y"},
		{"SG=y", "SG=y lost: has no prompt, so that no value asked for it counts (selected by VIRTIO_BLK). Add BLOCK=y, BLK_DEV=y, PCI=y, VIRTIO_PCI=y and VIRTIO_BLK=y"},
		{"PCI=y OLD=y", "OLD=y lost: needs PCI off (y); needs BLOCK || NOWHERE (BLOCK=n). Add PCI=n and BLOCK=y (which changes PCI)"},
		{"ARM_ONLY=y", "ARM_ONLY=y lost: needs ARM64 (which no Kconfig file of this architecture has). Cannot be met: no Kconfig file of this architecture has ARM64"},
		{"BLOK=y", "BLOK=y lost. Cannot be met: no Kconfig file of this architecture has it; did you mean BLOCK?"},
		{"GIC=y", "GIC=y lost. Cannot be met: no Kconfig file of this architecture has it; arch/arm64/Kconfig:2 does, which another one reads"},
		{"TWO=y ONE=n", "ONE=n kept"},
		{"LONE=n", "LONE=n became y: the choice \"lone\" must have a member. Cannot be met: LONE cannot be turned off"},
		{"NUM=9", "NUM=9 became 8. Cannot be met: its range is 1 to 8 (Kconfig:45)"},
		{"BIG=y", "BIG=y lost: needs NUM>4 (NUM=1). Add NUM=5"},
		{"MOD=y", "MOD=y lost: needs MODULES (n). Cannot be met: it depends on m, so that it can be a module at most"},
		{"TRI=m", "TRI=m kept as y"},
		{"BLOCK=m", "BLOCK=m lost. Cannot be met: it is of type bool, which has no value m"},
		{"MODULES=y TRI=m SUB=y", "SUB=y became m: can be m at most: needs TRI (m). Add TRI=y"},
		{"FREE=n", "FREE=n became y: no prompt of it is visible, and its default is y (Kconfig:53). Add EXPERT=y"},
		{"NEEDS_DERIVED=y", "NEEDS_DERIVED=y lost: needs DERIVED (n; by default PCI && BLOCK (Kconfig:57)). Add PCI=y and BLOCK=y"},
	}
	tree := parseFiles(t, Files{"Kconfig": []byte(disks), "arch/arm64/Kconfig": []byte("\nconfig GIC\n\tbool\n")})
	for _, tt := range tests {
		asked := values(strings.Fields(tt.asked)...)
		x := tree.Explainer(AllNo, nil, asked)
		e := x.Explain(asked[len(asked)-1])
		if got := e.String(); got != tt.want {
			t.Errorf("%s\ngot  %s\nwant %s", tt.asked, got, tt.want)
		}
		if len(e.Add) == 0 {
			continue
		}
		if add, left := x.Together([]Explanation{e}); len(left) > 0 || len(add) != len(e.Add) {
			t.Errorf("%s: together %v, left %v", tt.asked, add, left)
		}
	}
}

// Of two members of a choice that are asked for, the last wins.
func TestExplainChoice(t *testing.T) {
	tree := parseText(t, "choice\n\tprompt \"one of\"\nconfig ONE\n\tbool \"one\"\nconfig TWO\n\tbool \"two\"\nendchoice\n")
	got := tree.Explainer(AllNo, nil, values("ONE=y", "TWO=y")).Explain(Value{"ONE", "y"}).String()
	want := `ONE=y lost: the choice "one of" has another member (y). Cannot be met: another member is asked for after it, and only the last one counts`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("config A\n\tbool \"a\"\n\tselect B if C\nchoice\n\tprompt \"c\"\nconfig X\n\tbool \"x\"\nendchoice\n"), []byte("A=y\nX=n"))
	f.Add([]byte("mainmenu \"$(ARCH)\"\nx := $(shell,true)\nf = $(1)$(f2,$(1))\nf2 = $(2)\nconfig A\n\tdef_bool $(f,y) && !(A=m||B>=0x10)\n"), []byte("B=0x11"))
	f.Add([]byte("menu \"m\"\n\tvisible if A\nif B\nconfig A\n\ttristate \"a\"\n\timply C\n\thelp\n\t  text\n\n\tconfig N\nendif\nendmenu\ncomment \"x\"\n"), []byte("A=m"))
	f.Add([]byte("config N\n\tint \"n\"\n\trange -1 L\n\tdefault 3\nconfig L\n\thex\n\tdefault 0x7\nconfig MODULES\n\tbool \"m\"\n\tmodules\nosource \"x\"\n"), []byte("N=99\nMODULES=y"))
	f.Add([]byte("config A\n\tbool \"a\"\n\tdepends on A\n\tselect B\nconfig B\n\tbool\n\tselect A\n"), []byte("A=y\nB=y"))
	f.Add([]byte("config A\n\ttristate\n\ttransitional\nconfig B\n\ttristate \"b\"\n\tdefault A\n\tdepends on C if !A && B=m\nconfig C\n\tbool \"c\"\n\tdepends on B if A || m\n"), []byte("A=m\nC=y"))
	f.Fuzz(func(t *testing.T, text, asked []byte) {
		shell := func(command string) (string, error) { return command, nil }
		tree, err := Parse(Files{"Kconfig": text}, Options{Arch: "x86", Shell: shell})
		if err != nil {
			return
		}
		var list []Value
		for line := range strings.Lines(string(asked)) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && len(list) < 20 {
				list = append(list, Value{name, value})
			}
		}
		for _, base := range []Base{Defaults, AllNo} {
			x := tree.Explainer(base, nil, list)
			first := string(x.Result().Bytes())
			if again := string(tree.Evaluate(base, list).Bytes()); again != first {
				t.Fatalf("two evaluations differ:\n%s\n%s", first, again)
			}
			for _, v := range list {
				e := x.Explain(v)
				if e.String() == "" {
					t.Fatal("nothing said")
				}
				if e.Never == "" && len(e.Add) > 0 && !kept(v.Value, x.with(e.Add, v).Value(v.Symbol)) {
					t.Fatalf("%v does not help %v", e.Add, v)
				}
			}
		}
	})
}
