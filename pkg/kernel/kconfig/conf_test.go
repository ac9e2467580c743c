package kconfig

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// sourceEnv names unpacked Linux source trees, with colons between, to use
// instead of the locked tarball, and countEnv how many fragments are drawn for
// each of their architectures.
const (
	sourceEnv = "SOVEREIGN_LINUX_SOURCE"
	countEnv  = "SOVEREIGN_KCONFIG_FRAGMENTS"
)

// unpacked is what of the tarball conf and this package read.
var unpacked = []string{"*/Kconfig*", "*/Makefile", "*/scripts/*"}

// linux returns a source tree. Without one, and without the locked tarball in
// the content store (sovereign-build puts it there), the test is skipped.
var linux = sync.OnceValues(func() (string, error) {
	if dirs := filepath.SplitList(os.Getenv(sourceEnv)); len(dirs) > 0 {
		return dirs[0], nil
	}
	lock, err := os.ReadFile("../../../recipes/sql/sovereign.lock")
	if err != nil {
		return "", err
	}
	var inputs struct {
		Sources []struct{ Name, Digest string }
	}
	if err := json.Unmarshal(lock, &inputs); err != nil {
		return "", err
	}
	digest := ""
	for _, s := range inputs.Sources {
		if s.Name == "linux" {
			digest = strings.TrimPrefix(s.Digest, "sha256:")
		}
	}
	if len(digest) != 64 {
		return "", errors.New("the lock names no linux")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "sovereign", "test", "linux-"+digest[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	blob := filepath.Join(cache, "sovereign", "store", "blobs", "sha256", digest[:2], digest)
	if _, err := os.Stat(blob); err != nil {
		return "", fmt.Errorf("the content store lacks the locked linux; build recipes/sql once: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "unpack-")
	if err != nil {
		return "", err
	}
	tar := exec.Command("tar", append([]string{"-x", "-C", tmp, "--strip-components=1", "--wildcards"}, unpacked...)...)
	xz := exec.Command("xz", "-dc", "-T0", blob)
	if tar.Stdin, err = xz.StdoutPipe(); err != nil {
		return "", err
	}
	// One buffer each: two commands would write into a shared one at once.
	var tarErr, xzErr bytes.Buffer
	tar.Stderr, xz.Stderr = &tarErr, &xzErr
	if err := errors.Join(tar.Start(), xz.Run(), tar.Wait()); err != nil {
		return "", fmt.Errorf("unpacking %s: %w\n%s%s", blob, err, tarErr.String(), xzErr.String())
	}
	return dir, os.Rename(tmp, dir)
})

func source(t testing.TB) string {
	t.Helper()
	dir, err := linux()
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// hostEnv is what the kernel's makefiles would set for the host's GCC. For
// arm64 it is the wrong compiler, which only means that more probes fail.
func hostEnv(arch, version string) map[string]string {
	return map[string]string{
		"ARCH": arch, "SRCARCH": arch, "srctree": ".", "KERNELVERSION": version,
		"CC": "gcc", "LD": "ld", "AR": "ar", "NM": "nm", "OBJCOPY": "objcopy", "CLANG_FLAGS": "",
		"PAHOLE": "pahole", "RUSTC": "rustc", "BINDGEN": "bindgen", "PYTHON3": "python3",
		"CC_VERSION_TEXT": "gcc of the host",
	}
}

// conf is the kernel's own tool, built from the source tree.
type conf struct {
	dir, linux, arch, version string
	binary                    string
	probes                    string
}

func buildConf(t *testing.T, linux, arch string) *conf {
	t.Helper()
	c := &conf{dir: t.TempDir(), linux: linux, arch: arch, version: kernelVersion(os.DirFS(linux))}
	for _, tool := range []string{"gcc", "flex", "bison"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	c.binary, c.probes = filepath.Join(c.dir, "conf"), filepath.Join(c.dir, "probes")
	if err := os.Mkdir(c.probes, 0o755); err != nil {
		t.Fatal(err)
	}
	driver, err := filepath.Abs("testdata/driver.c")
	if err != nil {
		t.Fatal(err)
	}
	script := `set -eu
cd "$LINUX/scripts/kconfig"
bison -o "$DIR/parser.tab.c" --defines="$DIR/parser.tab.h" -t -l parser.y
flex -o"$DIR/lexer.lex.c" -L lexer.l
files="conf confdata expr preprocess symbol util"
# Up to 6.1 the parser has the menus in it.
grep -q '^#include "menu.c"' parser.y || files="$files menu"
for file in $files; do
	gcc -w -O2 -I. -I../include -I"$DIR" -Dpopen=remembered_popen -Dpclose=remembered_pclose \
		$([ $file = conf ] && echo -Dconf_parse=serve) -c $file.c -o "$DIR/$file.o"
done
gcc -w -O2 -I. -I../include -I"$DIR" -o "$DIR/conf" "$DRIVER" "$DIR"/*.lex.c "$DIR"/*.tab.c "$DIR"/*.o
`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Env = append(os.Environ(), "LINUX="+c.linux, "DIR="+c.dir, "DRIVER="+driver)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building conf: %v\n%s", err, out)
	}
	return c
}

func (c *conf) env() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "PROBES=" + c.probes, "KCONFIG_AUTOCONFIG=" + c.dir + "/auto.conf", "KCONFIG_AUTOHEADER=" + c.dir + "/autoconf.h", "KCONFIG_RUSTCCFG=" + c.dir + "/rustc_cfg"}
	for k, v := range hostEnv(c.arch, c.version) {
		env = append(env, k+"="+v)
	}
	return env
}

// shell is the Shell of a tree that sees what conf saw.
func (c *conf) shell(command string) (string, error) {
	h := fnv.New64a()
	h.Write([]byte(command))
	out, err := os.ReadFile(filepath.Join(c.probes, fmt.Sprintf("%016x", h.Sum64())))
	if err != nil {
		return "", fmt.Errorf("conf did not run this: %w", err)
	}
	return string(out), nil
}

// run hands conf a list of inputs and returns the .config of each: fragments
// for --allnoconfig, whole files for --olddefconfig.
func (c *conf) run(t *testing.T, mode string, inputs [][]byte) [][]byte {
	t.Helper()
	dir := t.TempDir()
	var requests strings.Builder
	path := func(i int, what string) string { return filepath.Join(dir, fmt.Sprintf("%d.%s", i, what)) }
	for i, text := range inputs {
		in := path(i, "in")
		if mode == "--olddefconfig" {
			in = path(i, "out")
		}
		if err := os.WriteFile(in, text, 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&requests, "%s %s\n", in, path(i, "out"))
	}
	cmd := exec.CommandContext(t.Context(), c.binary, "-s", mode, "Kconfig")
	cmd.Dir, cmd.Env, cmd.Stdin = c.linux, c.env(), strings.NewReader(requests.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("conf: %v\n%s", err, out[max(0, len(out)-4000):])
	}
	outputs := make([][]byte, len(inputs))
	for i := range inputs {
		var err error
		if outputs[i], err = os.ReadFile(path(i, "out")); err != nil {
			t.Fatal(err)
		}
	}
	return outputs
}

func (c *conf) tree(t *testing.T) *Tree {
	t.Helper()
	tree, err := Parse(os.DirFS(c.linux), Options{Arch: c.arch, Env: hostEnv(c.arch, c.version), Shell: c.shell})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func readValues(t *testing.T, text []byte) []Value {
	t.Helper()
	var out []Value
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if name, ok := strings.CutSuffix(line, " is not set"); ok {
			out = append(out, Value{strings.TrimPrefix(name, "# CONFIG_"), "n"})
		} else if name, value, ok := strings.Cut(line, "="); ok && strings.HasPrefix(line, "CONFIG_") {
			out = append(out, Value{strings.TrimPrefix(name, "CONFIG_"), value})
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func valuesText(values []Value) []byte {
	var b bytes.Buffer
	for _, v := range values {
		b.WriteString(v.Text() + "\n")
	}
	return b.Bytes()
}

// draw picks a symbol that can be asked for, and a value for it.
func draw(r *rand.Rand, symbols []*Symbol) Value {
	s := symbols[r.IntN(len(symbols))]
	switch s.Type {
	case Bool:
		return Value{s.Name, []string{"y", "y", "y", "y", "n", "m"}[r.IntN(6)]}
	case Tri:
		return Value{s.Name, []string{"y", "y", "y", "m", "m", "n"}[r.IntN(6)]}
	case Int:
		return Value{s.Name, fmt.Sprint([]int{0, 1, 2, 17, -5, 4096, 1 << 20, r.IntN(64)}[r.IntN(8)])}
	case Hex:
		return Value{s.Name, fmt.Sprintf("0x%x", []int{0, 1, 0xff, 0x1000, 1 << 28}[r.IntN(5)])}
	}
	return Value{s.Name, []string{`""`, `"x"`, `"a \"b\" \\c"`}[r.IntN(3)]}
}

// Fragments are drawn by a fixed seed.
const (
	fragmentCount    = 24
	fragmentSize     = 10
	explanationCount = 60
)

// Everything this package computes equals what the kernel's own conf does with
// the same fragments: the whole .config, byte for byte.
func TestConf(t *testing.T) {
	dirs := filepath.SplitList(os.Getenv(sourceEnv))
	if len(dirs) == 0 {
		dirs = []string{source(t)}
	}
	for _, dir := range dirs {
		for _, arch := range []string{"x86", "arm64", "riscv"} {
			t.Run(kernelVersion(os.DirFS(dir))+"/"+arch, func(t *testing.T) { predicts(t, dir, arch) })
		}
	}
}

// fragmentsWanted is how many fragments are drawn for an architecture.
func fragmentsWanted(t *testing.T) int {
	t.Helper()
	text := os.Getenv(countEnv)
	if text == "" {
		return fragmentCount
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < fragmentCount {
		t.Fatalf("%s=%q is not a number from %d", countEnv, text, fragmentCount)
	}
	return n
}

func predicts(t *testing.T, linux, arch string) {
	t.Helper()
	t.Parallel()
	c := buildConf(t, linux, arch)
	first := c.run(t, "--allnoconfig", [][]byte{nil})
	tree := c.tree(t)
	if got := tree.Evaluate(AllNo, nil).Bytes(); !bytes.Equal(got, first[0]) {
		t.Fatalf("allnoconfig: %s", firstDifference(got, first[0]))
	}
	r := rand.New(rand.NewPCG(6, 12))
	symbols := slices.DeleteFunc(tree.Symbols(), func(s *Symbol) bool { return s.Type == Unknown })
	// Menus and buses without which almost everything is lost.
	doors := []Value{{"MODULES", "y"}, {"NET", "y"}, {"BLOCK", "y"}, {"PCI", "y"}, {"OF", "y"}, {"USB_SUPPORT", "y"}, {"USB", "y"}, {"I2C", "m"}, {"EXPERT", "y"}, {"COMPILE_TEST", "y"}, {"NETDEVICES", "y"}, {"64BIT", "y"}, {"ACPI", "y"}, {"CRYPTO", "y"}, {"MTD", "m"}, {"SND", "y"}, {"SOUND", "y"}, {"DRM", "m"}}
	var asked [][]Value
	var inputs [][]byte
	for i := range fragmentsWanted(t) {
		var f []Value
		if i%3 > 0 {
			for _, d := range doors {
				if r.IntN(3) < i%3 {
					f = append(f, d)
				}
			}
		}
		for range fragmentSize {
			f = append(f, draw(r, symbols))
		}
		asked = append(asked, f)
		inputs = append(inputs, valuesText(f))
	}
	var n tally
	outputs := c.run(t, "--allnoconfig", inputs)
	for i, want := range outputs {
		n.compare(t, tree, AllNo, asked[i], inputs[i], want)
	}
	// And from there: some lines changed, the rest kept.
	for i, out := range outputs {
		values := readValues(t, out)
		for range fragmentSize {
			values = append(values, draw(r, symbols))
		}
		asked[i], inputs[i] = values, valuesText(values)
	}
	for i, want := range c.run(t, "--olddefconfig", inputs) {
		n.compare(t, tree, Defaults, asked[i][len(asked[i])-fragmentSize:], inputs[i], want)
	}
	if !tree.older {
		proveExplanations(t, c, tree, r, symbols)
	}
	t.Logf("%d symbols asked for in %d fragments, %d kept and %d lost; predicted right: %d (%.2f %%); whole .config equal: %d",
		n.symbols, n.configs, n.kept, n.symbols-n.kept, n.right, 100*float64(n.right)/float64(n.symbols), n.equal)
	if n.symbols < 500 || n.right != n.symbols || n.equal != n.configs {
		t.Errorf("conf is not predicted")
	}
}

// proveExplanations draws symbols that are lost alone over allnoconfig, and has
// conf keep them with the lines the explanation adds.
func proveExplanations(t *testing.T, c *conf, tree *Tree, r *rand.Rand, symbols []*Symbol) {
	t.Helper()
	var explained []Explanation
	var inputs [][]byte
	never, lines := 0, 0
	for len(explained) < explanationCount {
		v := draw(r, symbols)
		x := tree.Explainer(AllNo, nil, []Value{v})
		e := x.Explain(v)
		if kept(e.Asked, e.Got) {
			continue
		}
		explained = append(explained, e)
		lines += len(e.Add)
		if len(e.Add) == 0 {
			never++
		}
		inputs = append(inputs, valuesText(append([]Value{v}, e.Add...)))
	}
	for i, out := range c.run(t, "--allnoconfig", inputs) {
		e := explained[i]
		got := "n"
		for _, v := range readValues(t, out) {
			if v.Symbol == e.Symbol {
				got = v.Value
			}
		}
		if len(e.Add) > 0 && !kept(e.Asked, got) {
			t.Errorf("conf: %s=%s with %s added; %s", e.Symbol, got, sayValues(e.Add), e)
		}
		if len(e.Add) == 0 && e.Never == "" {
			t.Errorf("nothing to do about it: %s", e)
		}
		if strings.Contains(e.Never, "no set of values") {
			t.Logf("undecided: %s", e)
		}
	}
	t.Logf("%d lost symbols explained: %d are kept by conf with %.1f lines added on average, %d cannot be had",
		len(explained), len(explained)-never, float64(lines)/float64(max(1, len(explained)-never)), never)
}

type tally struct{ configs, equal, symbols, kept, right int }

func (n *tally) compare(t *testing.T, tree *Tree, base Base, asked []Value, input, want []byte) {
	t.Helper()
	got := tree.Evaluate(base, readValues(t, input))
	n.configs++
	if b := got.Bytes(); bytes.Equal(b, want) {
		n.equal++
	} else if n.configs-n.equal < 6 {
		t.Errorf("%s\nfrom\n%s", firstDifference(b, want), valuesText(asked))
	}
	final := map[string]string{}
	for _, v := range readValues(t, want) {
		final[v.Symbol] = v.Value
	}
	for _, v := range asked {
		w, ok := final[v.Symbol]
		if !ok {
			w = "n"
		}
		n.symbols++
		if w == v.Value {
			n.kept++
		}
		if (w == v.Value) == (got.Value(v.Symbol) == v.Value) {
			n.right++
		}
	}
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			lo := max(0, i-3)
			return fmt.Sprintf("line %d: got\n%s\nwant\n%s", i+1, strings.Join(g[lo:min(i+4, len(g))], "\n"), strings.Join(w[lo:min(i+4, len(w))], "\n"))
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

func BenchmarkParse(b *testing.B) {
	dir := source(b)
	for _, arch := range []string{"x86", "arm64"} {
		b.Run(arch, func(b *testing.B) {
			for b.Loop() {
				tree, err := Parse(os.DirFS(dir), Options{Arch: arch})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(tree.Bytes()))
			}
		})
	}
}

func BenchmarkEvaluate(b *testing.B) {
	tree, err := Parse(os.DirFS(source(b)), Options{Arch: "x86"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		tree.Evaluate(AllNo, nil)
	}
}
