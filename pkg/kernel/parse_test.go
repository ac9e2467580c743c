package kernel

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		{"space after", "CONFIG_A=y ", "f:1: "},
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
	if c.Value("A") != "m" || c.Value("HEX") != "" || c.Value("B") != Off || c.Len() != 2 {
		t.Errorf("A=%q HEX=%q B=%q, %d symbols", c.Value("A"), c.Value("HEX"), c.Value("B"), c.Len())
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
