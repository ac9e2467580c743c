package kconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A transitional symbol (Linux 6.18) hands a value on to the symbol that
// replaced it, whatever its type, and has no line of its own. The .config is
// that of conf of Linux 7.0.
func TestTransitional(t *testing.T) {
	tree := parseText(t, `mainmenu "x"
config MODULES
	def_bool y
	modules
config CFI
	bool "cfi"
	default OLD_CFI
config OLD_CFI
	bool
	transitional
	help
	  The name before.
config DRIVER
	tristate "driver"
	default OLD_DRIVER
config OLD_DRIVER
	tristate
	transitional
config OPTIONS
	string "options"
	default OLD_OPTIONS
config OLD_OPTIONS
	string
	transitional
config BASE
	hex "base"
	range 0x10 0xff
	default OLD_BASE
config OLD_BASE
	hex
	transitional
config COUNT
	int "count"
	default OLD_COUNT
config OLD_COUNT
	int
	transitional
config QUIET
	bool
	default OLD_CFI
config EITHER
	bool "either"
	default y if OLD_COUNT > 10 && OLD_DRIVER = m
config CHOSEN
	bool "chosen"
	default OLD_CHOSEN
config OLD_CHOSEN
	bool
	transitional
config PULLS
	def_bool y
	select OLD_PULLED
	imply OLD_PULLED
config PULLED
	bool "pulled"
	default OLD_PULLED
config OLD_PULLED
	bool
	transitional
`)
	const head = "#\n# Automatically generated file; DO NOT EDIT.\n# x\n#\n"
	asked := values("OLD_CFI=y", "OLD_DRIVER=m", `OLD_OPTIONS="a b"`, "OLD_BASE=0x1000", "OLD_COUNT=42", "CHOSEN=n", "OLD_CHOSEN=y")
	r := tree.Evaluate(Defaults, asked)
	want := head + `CONFIG_MODULES=y
CONFIG_CFI=y
CONFIG_DRIVER=m
CONFIG_OPTIONS="a b"
CONFIG_BASE=0xff
CONFIG_COUNT=42
CONFIG_QUIET=y
CONFIG_EITHER=y
# CONFIG_CHOSEN is not set
CONFIG_PULLS=y
# CONFIG_PULLED is not set
`
	if d := cmp.Diff(want, string(r.Bytes())); d != "" {
		t.Error(d)
	}
	if got := r.Value("OLD_CFI"); got != "n" {
		t.Errorf("OLD_CFI, which has no line in the .config, is %s", got)
	}
	want = head + `CONFIG_MODULES=y
# CONFIG_CFI is not set
# CONFIG_DRIVER is not set
CONFIG_OPTIONS=""
CONFIG_BASE=0x10
CONFIG_COUNT=0
# CONFIG_EITHER is not set
# CONFIG_CHOSEN is not set
CONFIG_PULLS=y
# CONFIG_PULLED is not set
`
	if d := cmp.Diff(want, string(tree.Evaluate(Defaults, nil).Bytes())); d != "" {
		t.Error(d)
	}
	// Nobody is told to ask for what has no line.
	x := tree.Explainer(Defaults, nil, asked)
	if got, want := x.Explain(Value{"OLD_CFI", "y"}).String(), "OLD_CFI=y lost. Cannot be met: it is transitional and has no line in the .config; ask for what takes its value: CFI, QUIET"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	x = tree.Explainer(AllNo, nil, values("QUIET=y"))
	if e := x.Explain(Value{"QUIET", "y"}); len(e.Add) != 0 || e.Never == "" {
		t.Errorf("%s", e)
	}
}

// "depends on A if B" (Linux 7.0) counts only when B is not n. The values are
// those of conf of Linux 7.0.
func TestConditionalDependency(t *testing.T) {
	tree := parseText(t, `config MODULES
	def_bool y
	modules
config A
	tristate "a"
config B
	tristate "b"
config C
	tristate "c"
config N
	int "n"
config ONE
	tristate "one"
	depends on A if B
config SELF
	tristate "self"
	depends on A if A
config NEITHER
	tristate "neither"
	depends on A if !B
config BOTH
	tristate "both"
	depends on A if B && C
config ANY
	tristate "any"
	depends on A if B || !C
config NONE
	tristate "none"
	depends on A if !(B || C)
config COMPARED
	tristate "compared"
	depends on A if N > 3
config MODULE
	tristate "module"
	depends on A if m
menu "menu"
	depends on A if B
	depends on C if C
config INSIDE
	tristate "inside"
endmenu
choice
	prompt "choice"
	depends on A if B
config MEMBER
	bool "member"
endchoice
`)
	names := []string{"ONE", "SELF", "NEITHER", "BOTH", "ANY", "NONE", "COMPARED", "MODULE", "INSIDE", "MEMBER"}
	for _, tt := range []struct{ asked, want string }{
		{"", "y y n y n n y n y y"},
		{"B=y", "n y y y n y y n n n"},
		{"B=m", "n y y y n y y n n n"},
		{"B=m C=y", "n y y n n y y n n n"},
		{"B=m C=m", "n y y n n y y n n n"},
		{"A=m", "y m m y m m y m y y"},
		{"A=m B=m", "m m y y m y y m m y"},
		{"A=m B=m C=m", "m m y m m y y m m y"},
		{"A=m B=y C=y", "m m y m m y y m m y"},
		{"C=m", "y y n y y y y n m y"},
		{"C=m N=4", "y y n y y y n n m y"},
		{"A=y B=y C=y N=4", "y y y y y y y y y y"},
	} {
		asked := values(strings.Fields(tt.asked)...)
		for _, n := range names {
			asked = append(asked, Value{n, "y"})
		}
		r := tree.Evaluate(AllNo, asked)
		var got []string
		for _, n := range names {
			got = append(got, r.Value(n))
		}
		if g := strings.Join(got, " "); g != tt.want {
			t.Errorf("%s: got %s, want %s", tt.asked, g, tt.want)
		}
	}
	x := tree.Explainer(AllNo, nil, values("B=y", "ONE=y"))
	e := x.Explain(Value{"ONE", "y"})
	if d := cmp.Diff([]Value{{"A", "y"}}, e.Add); d != "" {
		t.Errorf("%s: %s", e, d)
	}
}

// What is no such symbol is refused, as by conf.
func TestTransitionalErrors(t *testing.T) {
	for text, want := range map[string]string{
		"config A\n\tbool\n\ttransitional\n\tdefault y\n":        "Kconfig:1: the transitional symbol A has more than a type",
		"config A\n\ttransitional\n\tbool \"a\"\n":               "Kconfig:1: the transitional symbol A",
		"config A\n\tbool\n\ttransitional\n\tdepends on B\n":     "Kconfig:1: the transitional symbol A",
		"if B\nconfig A\n\tbool\n\ttransitional\nendif\n":        "Kconfig:2: the transitional symbol A",
		"config A\n\tbool\n\ttransitional\nconfig A\n\tselect B": "Kconfig:4: the transitional symbol A",
		"config A\n\tint\n\ttransitional\n\trange 1 2\n":         "Kconfig:1: the transitional symbol A",
		"config A\n\tbool\n\ttransitional y\n":                   `Kconfig:3: "y" is too much here`,
		"transitional\n":                                         `Kconfig:1: unknown statement "transitional"`,
		"menu \"m\"\n\ttransitional\nendmenu\n":                  `Kconfig:2: unknown statement "transitional"`,
		"choice\n\ttransitional\nendchoice\n":                    `Kconfig:2: unknown statement "transitional"`,
		"config A\n\tbool\n\tdepends on B if\n":                  "Kconfig:3: the line ends too early",
		"config A\n\tbool\n\tdepends on B if C D\n":              `Kconfig:3: "D" is too much here`,
	} {
		_, err := Parse(Files{"Kconfig": []byte(text)}, Options{Arch: "x86", Shell: noShell})
		if err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Source {
			t.Errorf("%q: error %v, want %s", text, err, want)
		}
	}
}

// A source of another time than the language that is known says so.
func TestUnknownLanguage(t *testing.T) {
	makefile := func(version, patchlevel string) []byte {
		return []byte("VERSION = " + version + "\nPATCHLEVEL = " + patchlevel + "\nSUBLEVEL = 0\nEXTRAVERSION = -rc1\n")
	}
	for _, tt := range []struct {
		makefile []byte
		hint     string
	}{
		{makefile("7", "9"), "the source is Linux 7.9.0-rc1, and the Kconfig language is known here up to that of Linux 7.0: use a newer release of this tool"},
		{makefile("12", "0"), "up to that of Linux 7.0"},
		{makefile("5", "4"), "the source is Linux 5.4.0-rc1, and the Kconfig language is known here from that of Linux 5.10 on: use a newer kernel"},
		{makefile("4", "19"), "from that of Linux 5.10 on"},
		{makefile("5", "10"), ""},
		{makefile("6", "12"), ""},
		{makefile("7", "0"), ""},
		{[]byte("VERSION = x\n"), ""},
		{nil, ""},
	} {
		for _, text := range []string{"config A\n\tfrobnicate if B\n", "config A\n\tbool if\n", "choice\n\toptional\n"} {
			files := Files{"Kconfig": []byte(text)}
			if tt.makefile != nil {
				files["Makefile"] = tt.makefile
			}
			_, err := Parse(files, Options{Arch: "x86", Shell: noShell})
			if err == nil || fault.ClassOf(err) != fault.Source {
				t.Fatalf("%q: %v", text, err)
			}
			if hint := fault.HintOf(err); (hint == "") != (tt.hint == "") || !strings.Contains(hint, tt.hint) {
				t.Errorf("%q: hint %q, want %q", tt.makefile, hint, tt.hint)
			}
		}
	}
}
