package kconfig

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func noShell(string) (string, error) { return "", errors.New("no shell in this test") }

func parseText(t *testing.T, text string) *Tree {
	t.Helper()
	return parseFiles(t, Files{"Kconfig": []byte(text)})
}

func parseFiles(t *testing.T, files Files) *Tree {
	t.Helper()
	tree, err := Parse(files, Options{Arch: "x86", Shell: noShell})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func values(pairs ...string) []Value {
	var out []Value
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		out = append(out, Value{name, value})
	}
	return out
}

// The whole language, with what conf 6.12 writes for it.
func TestLanguage(t *testing.T) {
	tree := parseFiles(t, Files{
		"Makefile": []byte("# SPDX\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 107\nEXTRAVERSION =\nNAME = Baby\n"),
		"Kconfig": []byte(`# a comment
mainmenu "Linux/$(ARCH) $(KERNELVERSION) Kernel Configuration"
yes := y
one = $(two)
two = 2
two += 3
greet = hello $(1), $(2)
config TEXT
	string 'a "text"'
	default "$(one) \"$(greet,you,me)\" \\ $(lineno) $x $$"
config WORD
	def_bool $(yes)
menu "Outer" # with a comment
	depends on WORD
	visible if SHOW
config HIDDEN
	bool "seen only with SHOW"
	default y
source "sub/Kconfig"
endmenu
config SHOW
	bool "show" \
		if WORD
	help
	  Text that says
	    config NOTHING

	  and more.
config MODULES
	bool "modules"
	modules
comment "a remark"
	depends on MODULES
`),
		"sub/Kconfig": []byte("if MODULES || SHOW\nconfig DEEP\n\ttristate\n\tprompt \"deep\"\n\tdefault m\n\timply SOFT if DEEP=m\nendif\nconfig SOFT\n\ttristate \"soft\"\nosource \"none\"\nrsource \"more\"\n"),
		"sub/more":    []byte("config NUM\n\tint \"num\"\n\trange 3 LIMIT\n\tdefault 7\nconfig LIMIT\n\thex \"limit\"\n\tdefault 0x10\n\thelp\n\t  The file ends here."),
	})
	got := string(tree.Evaluate(Defaults, values("SHOW=y", "MODULES=y", "NUM=99")).Bytes())
	want := `#
# Automatically generated file; DO NOT EDIT.
# Linux/x86 6.12.107 Kernel Configuration
#
CONFIG_TEXT="2 3 \"hello you, me\" \\ 10 $x $$"
CONFIG_WORD=y

#
# Outer
#
CONFIG_HIDDEN=y
CONFIG_DEEP=m
CONFIG_SOFT=m
CONFIG_NUM=0x10
CONFIG_LIMIT=0x10
# end of Outer

CONFIG_SHOW=y
CONFIG_MODULES=y

#
# a remark
#
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"Outer"}, tree.Menus("DEEP")); d != "" {
		t.Error(d)
	}
	if tree.Files() != 3 || tree.Title() != "Linux/x86 6.12.107 Kernel Configuration" {
		t.Errorf("%d files, title %q", tree.Files(), tree.Title())
	}
	// Without modules m is y, what depends on m is off, and hidden prompts
	// keep their defaults.
	r := tree.Evaluate(AllNo, values("DEEP=m", "SHOW=y"))
	for name, want := range map[string]string{"DEEP": "y", "SOFT": "n", "MODULES": "n", "HIDDEN": "n"} {
		if got := r.Value(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestEvaluate(t *testing.T) {
	const modules = "config MODULES\n\tdef_bool y\n\tmodules\n"
	tests := []struct {
		name, text string
		asked      string
		want       string
	}{
		{"select over a dependency", "config A\n\tbool \"a\"\n\tselect B\nconfig B\n\tbool \"b\"\n\tdepends on C\nconfig C\n\tbool \"c\"\n", "A=y B=n C=n", "A=y B=y C=n"},
		{"select if", "config A\n\tbool \"a\"\n\tselect B if C\nconfig B\n\tbool\nconfig C\n\tbool \"c\"\n", "A=y C=n", "B=n"},
		{"imply loses to what was asked", "config A\n\tbool \"a\"\n\timply B\nconfig B\n\tbool \"b\"\n", "A=y B=n", "B=n"},
		{"first default that holds", "config A\n\tint\n\tdefault 1 if B\n\tdefault 2 if C\n\tdefault 3\nconfig B\n\tbool \"b\"\nconfig C\n\tbool \"c\"\n", "C=y", "A=2"},
		{"limited by a module", modules + "config A\n\ttristate \"a\"\nconfig B\n\ttristate \"b\"\n\tdepends on A\n", "A=m B=y", "B=m"},
		{"a bool that depends on a module", modules + "config A\n\ttristate \"a\"\nconfig B\n\tbool \"b\"\n\tdepends on A\n", "A=m B=y", "B=y"},
		{"no modules, no m", "config A\n\ttristate \"a\"\n\tdepends on m\nconfig B\n\ttristate \"b\"\n", "A=m B=m", "A=n B=y"},
		{"the last of a choice wins", "choice\n\tprompt \"c\"\nconfig A\n\tbool \"a\"\nconfig B\n\tbool \"b\"\nendchoice\n", "B=y A=y", "A=y B=n"},
		{"default of a choice", "choice\n\tprompt \"c\"\n\tdefault B\nconfig A\n\tbool \"a\"\nconfig B\n\tbool \"b\"\nendchoice\n", "", "A=n B=y"},
		{"a refused default", "choice\n\tprompt \"c\"\n\tdefault B\nconfig A\n\tbool \"a\"\nconfig B\n\tbool \"b\"\nendchoice\n", "B=n", "A=y B=n"},
		{"all refused", "choice\n\tprompt \"c\"\nconfig A\n\tbool \"a\"\nconfig B\n\tbool \"b\"\nendchoice\n", "A=n B=n", "A=y B=n"},
		{"if inside a choice", "choice\n\tprompt \"c\"\nif X\nconfig A\n\tbool \"a\"\nendif\nconfig B\n\tbool \"b\"\nendchoice\nconfig X\n\tbool \"x\"\n", "A=y", "A=n B=y"},
		{"range", "config A\n\tint \"a\"\n\trange 2 5\n", "A=9", "A=5"},
		{"range below", "config A\n\tint \"a\"\n\trange 2 5\n", "A=-9", "A=2"},
		{"hexadecimal", "config A\n\thex \"a\"\nconfig B\n\tdef_bool A >= 0x10\n", "A=0x1F", "A=0x1F B=y"},
		{"text compared", "config A\n\tstring \"a\"\nconfig B\n\tdef_bool A=\"x\"\n", `A="x"`, "B=y"},
		{"precedence", "config A\n\tdef_bool X || Y && !Z\nconfig X\n\tbool \"x\"\nconfig Y\n\tbool \"y\"\nconfig Z\n\tbool \"z\"\n", "X=y Z=y", "A=y"},
		{"m of a bool", "config A\n\tbool \"a\"\n", "A=m", "A=n"},
		{"zero in front", "config A\n\tint \"a\"\n\tdefault 4\n", "A=07", "A=4"},
		{"itself", "config A\n\tbool \"a\"\n\tdepends on A\n", "A=y", "A=n"},
		{"two entries", "config A\n\tbool \"a\"\n\tdepends on B\nconfig A\n\tbool\n\tdefault y if C\nconfig B\n\tbool \"b\"\nconfig C\n\tbool \"c\"\n", "C=y A=n", "A=y"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := parseText(t, tt.text).Evaluate(AllNo, values(strings.Fields(tt.asked)...))
			for _, w := range values(strings.Fields(tt.want)...) {
				if got := r.Value(w.Symbol); got != w.Value {
					t.Errorf("%s is %s, want %s", w.Symbol, got, w.Value)
				}
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	deep := strings.Repeat("menu \"m\"\n", maxBlocks+1)
	tests := []struct{ text, want string }{
		{"config\n", "Kconfig:1: the line ends too early"},
		{"config A\n\tbool \"a\"\n\tdepends A\n", `Kconfig:3: "depends" without "on"`},
		{"\n\nconfig A\n\tnonsense\n", `Kconfig:4: unknown statement "nonsense"`},
		{"menu \"m\"\n", "Kconfig:1: this block does not end in its file"},
		{"endif\n", `Kconfig:1: "endif" ends nothing here`},
		{"if A\nendmenu\n", `Kconfig:2: "endmenu" ends nothing here`},
		{"source \"none\"\n", `Kconfig:1: source "none": kernel source: open none: file does not exist`},
		{"source \"Kconfig\"\n", "Kconfig includes itself"},
		{"config A\n\tdef_bool (B\n", "Kconfig:2: a ) is missing"},
		{"config A\n\tdef_bool B C\n", `Kconfig:2: "C" is too much here`},
		{"config y\n", `Kconfig:1: "y" cannot be a symbol`},
		{"A = $(A)\nconfig B\n\tdef_bool $(A)\n", `Kconfig:3: variable "A" refers to itself`},
		{"$(error-if,y,too old)\n", "Kconfig:1: the Kconfig file itself reports: too old"},
		{"config A\n\tdef_bool $(shell,ls)\n", "Kconfig:2: $(shell,ls): no shell in this test"},
		{"config A\n\tdef_bool $(success\n", "unterminated reference"},
		{"choice\n\tprompt \"c\"\nmenu \"m\"\n", `Kconfig:3: "menu" does not belong into a choice`},
		{deep, "blocks are nested deeper than"},
		{"config A\n\tdef_bool " + strings.Repeat("(", 5000) + "\n", "nested deeper than"},
		{"config A\n\tdef_bool " + strings.Repeat("!", 5000) + "B\n", "nested deeper than"},
	}
	for _, tt := range tests {
		_, err := Parse(Files{"Kconfig": []byte(tt.text)}, Options{Arch: "x86", Shell: noShell})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60q: error %v, want %s", tt.text, err, tt.want)
			continue
		}
		if fault.ClassOf(err) != fault.Source {
			t.Errorf("%.60q: class %d", tt.text, fault.ClassOf(err))
		}
	}
}

func TestToolchain(t *testing.T) {
	tree, err := Parse(Files{"Kconfig": []byte(`
if-success = $(shell,{ $(1); } >/dev/null 2>&1 && echo "$(2)" || echo "$(3)")
success = $(if-success,$(1),y,n)
cc-option = $(success,$(CC) $(1) -c -x c /dev/null)
cc-info := $(shell,$(srctree)/scripts/cc-version.sh $(CC))
cc-name := $(shell,set -- $(cc-info) && echo $1)
cc-version := $(shell,set -- $(cc-info) && echo $2)
config CC_IS_CLANG
	def_bool $(success,test "$(cc-name)" = Clang)
config CLANG_VERSION
	int
	default $(cc-version)
config GOOD
	def_bool $(cc-option,-fgood)
config BAD
	bool "bad"
	depends on $(cc-option,-mrecord-mcount)
`)}, Options{Arch: "x86"})
	if err != nil {
		t.Fatal(err)
	}
	x := tree.Explainer(AllNo, nil, values("BAD=y"))
	for _, v := range values("CC_IS_CLANG=y", "CLANG_VERSION=190107", "GOOD=y", "BAD=n") {
		if got := x.Result().Value(v.Symbol); got != v.Value {
			t.Errorf("%s is %s, want %s", v.Symbol, got, v.Value)
		}
	}
	want := "BAD=y lost: the compiler answers n to $(cc-option,-mrecord-mcount). Cannot be met: the compiler answers n to $(cc-option,-mrecord-mcount) [depends on the compiler: $(cc-option,-mrecord-mcount)]"
	if got := x.Explain(Value{"BAD", "y"}).String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNumbers(t *testing.T) {
	for s, want := range map[string]int64{"12": 12, "-3": -3, "0x1f": 31, "010": 8, "9z": 9, "": 0, "99999999999999999999": 1<<63 - 1, "-99999999999999999999": -1 << 63, "0x": 0} {
		if got := parseInt(s, 0); got != want {
			t.Errorf("%q is %d, want %d", s, got, want)
		}
	}
	for s, ok := range map[string]bool{"0": true, "-1": true, "01": false, "-": false, "": false, "1a": false} {
		if got := validNumber(Int, s); got != ok {
			t.Errorf("int %q: %v", s, got)
		}
	}
	for s, ok := range map[string]bool{"0x1": true, "fF": true, "0x": false, "g": false} {
		if got := validNumber(Hex, s); got != ok {
			t.Errorf("hex %q: %v", s, got)
		}
	}
}
