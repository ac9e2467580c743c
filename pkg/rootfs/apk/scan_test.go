package apk

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// compile makes an ELF file with the machine's own compiler: what matters here
// are headers, not the C library.
func compile(t *testing.T, name, source string, flags ...string) []byte {
	t.Helper()
	cc := ""
	for _, c := range []string{"clang", "gcc", "cc"} {
		if path, err := exec.LookPath(c); err == nil {
			cc = path
			break
		}
	}
	if cc == "" {
		t.Skip("no C compiler (Debian: gcc or clang)")
	}
	dir := t.TempDir()
	src, out := filepath.Join(dir, "x.c"), filepath.Join(dir, name)
	if err := os.WriteFile(src, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cc, append([]string{"-o", out, src, "-nostdlib", "-Wl,--build-id=none"}, flags...)...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, msg)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func elfTree(t *testing.T) *rootfs.Tree {
	lib := compile(t, "libfoo.so.1.2.3", "int foo(void){return 1;}", "-shared", "-fPIC", "-Wl,-soname,libfoo.so.1")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "libfoo.so"), lib, 0o644); err != nil {
		t.Fatal(err)
	}
	main := "int foo(void); void _start(void){foo();}"
	good := compile(t, "good", main, "-L"+dir, "-lfoo", "-Wl,-z,stack-size=2097152", "-Wl,-z,noexecstack")
	bad := compile(t, "bad", main, "-L"+dir, "-lfoo", "-Wl,-rpath,/src/build/lib:/usr/lib:$ORIGIN/../lib", "-Wl,-z,noexecstack")
	static := compile(t, "static", "void _start(void){}", "-static", "-Wl,-z,noexecstack")
	plugin := compile(t, "plugin.so", "int p;", "-shared", "-fPIC")
	return tree(t,
		rootfs.Regular("usr/lib/libfoo.so.1.2.3", 0o755, lib),
		rootfs.Symlink("usr/lib/libfoo.so.1", "libfoo.so.1.2.3"),
		rootfs.Regular("usr/lib/app/plugin.so", 0o755, plugin),
		rootfs.Regular("lib/libc.so", 0o755, compile(t, "libc.so", "int c;", "-shared", "-fPIC")),
		rootfs.Regular("usr/bin/good", 0o755, good),
		rootfs.Regular("usr/bin/bad", 0o755, bad),
		rootfs.Regular("usr/libexec/static", 0o755, static),
		rootfs.Regular("usr/bin/not-executable", 0o644, []byte("#!/bin/sh\n")),
		rootfs.Symlink("bin/sh", "busybox"),
		rootfs.Symlink("usr/bin/[", "../../bin/busybox"),
		rootfs.Regular("usr/share/doc/readme", 0o644, append(make([]byte, 256<<10-3), "built in /work/x"...)),
		rootfs.Regular("usr/lib/pkgconfig/foo.pc", 0o644, []byte("prefix=/usr\nmajor=1.2\nName: foo\nVersion: ${major}.3\nRequires: bar >= 2.0, baz\nRequires.private: foo qux<3 \\\n  zlib != 4\n")),
	)
}

func TestScan(t *testing.T) {
	f, err := Scan(elfTree(t), "x86_64")
	if err != nil {
		t.Fatal(err)
	}
	wantProvides := []string{"cmd:[=1-r0", "cmd:bad=1-r0", "cmd:good=1-r0", "cmd:sh=1-r0", "pc:foo=1.2.3", "so:libc.so=0", "so:libfoo.so.1=1.2.3"}
	if got := f.Provides("1-r0"); !slices.Equal(got, wantProvides) {
		t.Errorf("provides %q, want %q", got, wantProvides)
	}
	wantDepends := []string{"pc:bar>=2.0", "pc:baz", "pc:qux<3", "pc:zlib"}
	if got := f.Depends(); !slices.Equal(got, wantDepends) {
		t.Errorf("depends %q, want %q", got, wantDepends)
	}
	tr := elfTree(t)
	tr.Remove("usr/lib/libfoo.so.1.2.3")
	tr.Remove("usr/lib/libfoo.so.1")
	if f, err := Scan(tr, "x86_64"); err != nil || !slices.Equal(f.Needed, []string{"libfoo.so.1"}) {
		t.Errorf("needed %q, %v", f.Needed, err)
	}
	if _, err := Scan(tr, "aarch64"); err == nil || !strings.Contains(err.Error(), "EM_X86_64") {
		t.Errorf("wrong architecture: %v", err)
	}
	if _, err := Scan(tr, "mips"); err == nil {
		t.Error("mips was accepted")
	}
}

func TestCheckELF(t *testing.T) {
	problems, err := CheckELF(elfTree(t), "/work/", "/src/build")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, p.String())
	}
	want := []string{
		"usr/bin/bad asks for a stack of 0 bytes, not 2097152",
		"usr/bin/bad looks for libraries in /src/build/lib",
		`usr/bin/bad holds "/src/build"`,
		"usr/libexec/static asks for a stack of 0 bytes",
		`usr/share/doc/readme holds "/work/"`,
	}
	for _, w := range want {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, w) }) {
			t.Errorf("%q is missing", w)
		}
	}
	if len(got) > len(want) {
		t.Errorf("more than expected: %q", got)
	}
	// This test program is a Go program; a C program of the machine needs glibc.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	problems, err = CheckELF(tree(t, rootfs.Regular("go", 0o755, self)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.Contains(p.What, "stack") {
			t.Errorf("a Go program: %s", p)
		}
	}
	if ls, err := os.ReadFile("/bin/ls"); err == nil {
		problems, err := CheckELF(tree(t, rootfs.Regular("ls", 0o755, ls)))
		if err != nil || !slices.ContainsFunc(problems, func(p Problem) bool { return strings.Contains(p.What, "GLIBC_") }) {
			t.Errorf("/bin/ls: %v, %v", problems, err)
		}
	}
}
