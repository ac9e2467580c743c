package kconfig

import (
	"fmt"
	"regexp"
	"strings"
)

// Toolchain answers what Kconfig files ask of the compiler, without running
// it. The zero value is no compiler.
type Toolchain struct {
	Compiler  string // "Clang" or "GCC", as scripts/cc-version.sh prints it
	Version   string // as the same script prints it: 190107 is 19.1.7
	Assembler string // "LLVM" or "GNU"
	Linker    string // "LLD" or "BFD"
	Text      string // the first line of cc --version
	// Refuses are parts of commands that fail; every other probe succeeds.
	Refuses []string
}

// Clang19 is LLVM 19.1.7 of Debian 12 on amd64, the project's toolchain, with a
// C library for its own architecture only and without Rust and pahole.
func Clang19(arch string) Toolchain {
	t := Toolchain{
		Compiler: "Clang", Version: "190107", Assembler: "LLVM", Linker: "LLD",
		Text: "Debian clang version 19.1.7 (3~deb12u1)",
		Refuses: []string{
			// What only GCC and GNU binutils have.
			"-mrecord-mcount", "bounds-strict", "-fmin-function-alignment", "plugin-version.h",
			"-mindirect-branch-register", "grep -qv llvm", "-Wimplicit-fallthrough=5",
			// Clang defines the macro itself.
			"-D__SIZEOF_INT128__=0",
			"rust_is_available.sh", "import lxml",
		},
	}
	if srcArch(arch) != "x86" {
		t.Refuses = append(t.Refuses, "cc-can-link.sh", "-fsanitize=kernel-memory")
	}
	return t
}

// Env are the variables of the kernel's makefiles that describe a toolchain.
func (t Toolchain) Env() map[string]string {
	return map[string]string{
		"CC": "clang", "LD": "ld.lld", "AR": "llvm-ar", "NM": "llvm-nm", "OBJCOPY": "llvm-objcopy",
		"CC_VERSION_TEXT": t.Text, "PAHOLE": "pahole", "RUSTC": "rustc", "BINDGEN": "bindgen", "PYTHON3": "python3",
		"CLANG_FLAGS": "",
	}
}

var (
	successRE = regexp.MustCompile(`(?s)^\{ (.*); \} >/dev/null 2>&1 && echo "(.*)" \|\| echo "(.*)"$`)
	emptyRE   = regexp.MustCompile(`^test -z "(.*)"$`)
	sameRE    = regexp.MustCompile(`^test "(.*)" = "?([^"]*)"?$`)
	fieldRE   = regexp.MustCompile(`^set -- (\S+) (\S+) && echo \$([12])$`)
)

// Shell answers a command of scripts/Kconfig.include.
func (t Toolchain) Shell(command string) (string, error) {
	if m := successRE.FindStringSubmatch(command); m != nil {
		if t.succeeds(m[1]) {
			return m[2], nil
		}
		return m[3], nil
	}
	if m := fieldRE.FindStringSubmatch(command); m != nil {
		if m[3] == "1" {
			return m[1], nil
		}
		return m[2], nil
	}
	for _, a := range []struct{ script, answer string }{
		{"/scripts/cc-version.sh", t.Compiler + " " + t.Version},
		{"/scripts/as-version.sh", t.Assembler + " " + t.Version},
		{"/scripts/ld-version.sh", t.Linker + " " + t.Version},
		{"/scripts/rustc-version.sh", "0"},
		{"/scripts/rustc-llvm-version.sh", "0"},
		{"/scripts/pahole-version.sh", "0"},
		{"--version", ""},
		{"-print-file-name", ""},
	} {
		if strings.Contains(command, a.script) {
			return a.answer, nil
		}
	}
	return "", fmt.Errorf("the toolchain has no answer to this command; hand a function that runs it")
}

func (t Toolchain) succeeds(command string) bool {
	if m := emptyRE.FindStringSubmatch(command); m != nil {
		return m[1] == ""
	}
	if m := sameRE.FindStringSubmatch(command); m != nil {
		return m[1] == m[2]
	}
	for _, r := range t.Refuses {
		if strings.Contains(command, r) {
			return false
		}
	}
	return true
}
