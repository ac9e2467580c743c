package kernel

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const fragmentText = `# Disks of the guest.

# The root disk is a virtio device,
# on PCI.
CONFIG_BLK_DEV=y
CONFIG_VIRTIO_BLK=y
# No module is ever loaded.
# CONFIG_MODULES is not set

CONFIG_NR_CPUS=64
CONFIG_PHYS=0x1F
CONFIG_LSM="landlock,\"yama\""
#CONFIG_COMMENTED=y
`

func TestParseFragment(t *testing.T) {
	c, err := ParseFragment("f.config", strings.NewReader(fragmentText))
	if err != nil {
		t.Fatal(err)
	}
	disk := "The root disk is a virtio device, on PCI."
	want := []Setting{
		{Symbol: "BLK_DEV", Value: "y", File: "f.config", Line: 5, Reason: disk},
		{Symbol: "VIRTIO_BLK", Value: "y", File: "f.config", Line: 6, Reason: disk},
		{Symbol: "MODULES", Value: "n", File: "f.config", Line: 8, Reason: "No module is ever loaded."},
		{Symbol: "NR_CPUS", Value: "64", File: "f.config", Line: 10},
		{Symbol: "PHYS", Value: "0x1F", File: "f.config", Line: 11},
		{Symbol: "LSM", Value: `"landlock,\"yama\""`, File: "f.config", Line: 12},
	}
	var got []Setting
	for s := range c.All() {
		got = append(got, s)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if c.Topic != "Disks of the guest." {
		t.Errorf("topic %q", c.Topic)
	}
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil || b.String() != fragmentText {
		t.Errorf("written back differently (%v):\n%s", err, cmp.Diff(fragmentText, b.String()))
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no value", "CONFIG_A=", "f:1: CONFIG_A: \"\" is neither"},
		{"space before", "# x\n CONFIG_A=y", "f:2: \" CONFIG_A=y\" is neither a setting nor a comment"},
		{"space around", "CONFIG_A = y", "f:1: "},
		{"value", "CONFIG_A=yes", "f:1: CONFIG_A: \"yes\" is neither y, m, n"},
		{"space after", "CONFIG_A=y ", "f:1: CONFIG_A: a blank follows y"},
		{"tab after", "CONFIG_A=17\t \r\n", "f:1: CONFIG_A: a blank follows 17"},
		{"space after a string", `CONFIG_A="x y" `, `f:1: CONFIG_A: a blank follows the string "x y"`},
		{"remark", "CONFIG_A=y # why", `f:1: CONFIG_A: the remark "# why" follows the value; write it on a line of its own`},
		{"remark after a number", "CONFIG_A=0xff#why", `the remark "#why" follows the value`},
		{"hex with other letters", "CONFIG_A=0xfg", `CONFIG_A: "0xfg" is neither`},
		{"only 0x", "CONFIG_A=0x", `CONFIG_A: "0x" is neither`},
		{"open string", `CONFIG_A="x`, "has no closing quote"},
		{"after string", `CONFIG_A="x"y`, "text follows the string"},
		{"escaped end", `CONFIG_A="x\"`, "has no closing quote"},
		{"not set, badly", "#CONFIG_A is not set", "write exactly \"# CONFIG_A is not set\""},
		{"not set, bare", "CONFIG_A is not set", "write exactly"},
		{"twice", "CONFIG_A=y\n# CONFIG_A is not set", "f:2: CONFIG_A is set in line 1 already"},
		{"no prefix", "A=y", "neither a setting nor a comment"},
		{"binary", "CONFIG_A=y\x00", "zero byte"},
		{"long", "#" + strings.Repeat("x", MaxLine+1), "longer than"},
		{"large", strings.Repeat("#\n", MaxSize/2+1), "larger than"},
		{"many", strings.Repeat("\n", MaxLines+1), "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseFragment("f", strings.NewReader(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if fault.ClassOf(err) != fault.Usage || fault.HintOf(err) == "" {
				t.Errorf("class %d, hint %q", fault.ClassOf(err), fault.HintOf(err))
			}
		})
	}
}

func TestParseConfigIsLenient(t *testing.T) {
	c, err := ParseConfig("c", strings.NewReader("CONFIG_A=y\r\nCONFIG_A=m\r\nCONFIG_HEX=\n#CONFIG_B is not set\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 0 {
		t.Errorf("warnings of what Kconfig says nothing about: %v", c.Warnings)
	}
	if c.Value("A") != "m" || c.Value("HEX") != "" || c.Value("B") != Off || c.Len() != 2 {
		t.Errorf("A=%q HEX=%q B=%q, %d symbols", c.Value("A"), c.Value("HEX"), c.Value("B"), c.Len())
	}
}

// Whole files are read as the kernel's conf reads them; the values are those
// that conf of Linux 6.12 takes.
func TestParseConfigLikeConf(t *testing.T) {
	for _, tt := range []struct{ line, value, warning string }{
		{"CONFIG_A=y ", "y", `"y " is read as y`},
		{"CONFIG_A=y # Needed for all", "y", `is read as y`},
		{"CONFIG_A=yes", "y", `"yes" is read as y`},
		{"CONFIG_A=module", "m", `"module" is read as m`},
		{"CONFIG_A=no\r", "n", `"no" is read as n`},
		{"CONFIG_A=deadbeef", "deadbeef", ""},
		{"CONFIG_A=1000000", "1000000", ""},
		{"CONFIG_A=-5", "-5", ""},
		{"CONFIG_A=0XfF", "0XfF", ""},
		{`CONFIG_A="a" # c`, `"a"`, `" # c" after the string is passed over`},
		{`CONFIG_A="a \" b\\" `, `"a \" b\\"`, `" " after the string`},
		{`CONFIG_A="a`, "kept", "has no closing quote and counts as not given"},
		{"CONFIG_A=17 ", "kept", `"17 " is no value, and counts as not given`},
		{"CONFIG_A=17 # c", "kept", "is no value"},
		{"CONFIG_A=0x1f # c", "kept", "is no value"},
		{"CONFIG_A=Y", "kept", `"Y" is no value`},
		{"CONFIG_A= y", "kept", `" y" is no value`},
		{"CONFIG_A=text", "kept", "is no value"},
		{"CONFIG_A", "kept", `"CONFIG_A" is neither a setting nor a comment, and is passed over`},
		{" CONFIG_A=y", "kept", "is passed over"},
		{"\xef\xbb\xbfCONFIG_A=y", "kept", "is passed over"},
		{"+CONFIG_A=y", "kept", "is passed over"},
		{"# CONFIG_A is not set ", "kept", ""},
		{"# CONFIG_A is not set", "n", ""},
	} {
		c, err := ParseConfig("c", strings.NewReader("CONFIG_A=\"before\"\n"+tt.line+"\n"))
		if err != nil {
			t.Errorf("%q: %v", tt.line, err)
			continue
		}
		want := tt.value
		if want == "kept" {
			want = `"before"`
		}
		if got := c.Value("A"); got != want {
			t.Errorf("%q: %s, want %s", tt.line, got, want)
		}
		said := ""
		for _, w := range c.Warnings {
			said += w.String()
		}
		if (said == "") != (tt.warning == "") || !strings.Contains(said, tt.warning) || said != "" && !strings.HasPrefix(said, "c:2: ") {
			t.Errorf("%q: warning %q, want %q", tt.line, said, tt.warning)
		}
	}
	// What sets nothing at all is no configuration.
	for _, text := range []string{"a list\nof words\n", "CONFIG_A\nCONFIG_B\n", "diff --git\n+CONFIG_A=y\n", "CONFIG_A=17 \n"} {
		if c, err := ParseConfig("c", strings.NewReader(text)); fault.ClassOf(err) != fault.Usage || !strings.HasPrefix(err.Error(), "c:1: ") || !strings.Contains(fault.HintOf(err), "sets no symbol") {
			t.Errorf("%q: %v, %v", text, c, err)
		}
	}
	// Hexadecimal numbers need no 0x, in fragments neither.
	c, err := ParseFragment("f", strings.NewReader("CONFIG_A=deadbeef\nCONFIG_B=10\n"))
	if err != nil || c.Value("A") != "deadbeef" {
		t.Errorf("%v, %v", c, err)
	}
	for a, b := range map[string]string{"deadbeef": "0xDEADBEEF", "0x0f": "F", "010": "10"} {
		if !equal(a, b) || !equal(b, a) {
			t.Errorf("%s and %s differ", a, b)
		}
	}
	for a, b := range map[string]string{"10": "0x10", "15": "0xf", "a": "0xb", "m": "0xb"} {
		if equal(a, b) || equal(b, a) {
			t.Errorf("%s and %s are equal", a, b)
		}
	}
}

func TestMenus(t *testing.T) {
	c, err := ReadConfig("testdata/x86.config")
	if err != nil {
		t.Fatal(err)
	}
	for symbol, want := range map[string]string{
		"CC_VERSION_TEXT":        "",
		"SYSVIPC":                "General setup",
		"HIGH_RES_TIMERS":        "General setup > Timers subsystem",
		"VIRTIO_BLK":             "Device Drivers",
		"EXT4_FS":                "File systems",
		"NF_TABLES":              "Networking options > Core Netfilter Configuration",
		"SLAB_FREELIST_HARDENED": "Memory Management options > Slab allocator options",
	} {
		if s, ok := c.Lookup(symbol); !ok || s.Menu != want {
			t.Errorf("%s: menu %q (%v), want %q", symbol, s.Menu, ok, want)
		}
	}
}

func TestReadCompressed(t *testing.T) {
	dir := t.TempDir()
	plain, err := os.ReadFile("testdata/x86.config")
	if err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.gz")
	if err := os.WriteFile(path, z.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), plain) {
		t.Errorf("written back differently (%v)", err)
	}

	if err := os.WriteFile(path, z.Bytes()[:z.Len()/2], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(path); fault.ClassOf(err) != fault.Usage {
		t.Errorf("half a file: %v", err)
	}
	if _, err := ReadConfig(filepath.Join(dir, "absent")); err == nil || fault.ClassOf(err) != fault.Usage {
		t.Errorf("absent file: %v", err)
	}

	// xz, zstd, and zstd behind a skippable frame; what cannot be read is named.
	for name, compress := range map[string]func(io.Writer) (io.WriteCloser, error){
		"config.xz":  func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
		"config.zst": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"pzstd": func(w io.Writer) (io.WriteCloser, error) {
			if _, err := io.WriteString(w, "\x51\x2a\x4d\x18\x04\x00\x00\x00abcd"); err != nil {
				return nil, err
			}
			return zstd.NewWriter(w)
		},
	} {
		var z bytes.Buffer
		w, err := compress(&z)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		for _, cut := range []bool{false, true} {
			data := z.Bytes()
			if cut {
				data = data[:len(data)/2]
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
			c, err := ReadConfig(path)
			switch {
			case cut && fault.ClassOf(err) != fault.Usage:
				t.Errorf("half of %s: %v", name, err)
			case !cut && (err != nil || c.Value("VIRTIO_BLK") != "y"):
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := os.WriteFile(path, []byte("BZh91AY&SY"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(path); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "a bzip2 file, which is not read") {
		t.Errorf("bzip2: %v", err)
	}

	// 64 MiB of nothing in 64 KB: the limit counts what comes out.
	z.Reset()
	w.Reset(&z)
	for range 64 {
		if _, err := w.Write(bytes.Repeat([]byte("\n"), 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, z.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("decompression bomb: %v", err)
	}
}

func TestWith(t *testing.T) {
	c, err := ParseConfig("c", strings.NewReader("# head\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=1"))
	if err != nil {
		t.Fatal(err)
	}
	d := c
	for _, s := range []Setting{{Symbol: "A", Value: "n"}, {Symbol: "B", Value: "y"}, {Symbol: "D", Value: `"x"`}, {Symbol: "D", Value: `"y"`}} {
		if d, err = d.With(s.Symbol, s.Value); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := d.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	want := "# head\n# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=1\nCONFIG_D=\"y\"\n"
	if b.String() != want {
		t.Error(cmp.Diff(want, b.String()))
	}
	if c.Value("A") != "y" || c.Value("D") != Off || c.Len() != 3 {
		t.Error("With changed the value it was called on")
	}
	if _, err := c.With("CONFIG_A=", "y"); err == nil {
		t.Error("a malformed symbol was taken")
	}
	if _, err := c.With("A", "yes"); err == nil {
		t.Error("a malformed value was taken")
	}
}
