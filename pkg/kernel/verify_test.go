package kernel

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func fragment(t *testing.T, name, text string) *Config {
	t.Helper()
	c, err := ParseFragment(name, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func config(t *testing.T, text string) *Config {
	t.Helper()
	c, err := ParseConfig(".config", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMerge(t *testing.T) {
	a := fragment(t, "a", "# Why A.\nCONFIG_A=y\n\n# Why C.\nCONFIG_C=1\n# CONFIG_D is not set\n")
	b := fragment(t, "b", "# Also A.\nCONFIG_A=y\n\n# B differs.\nCONFIG_C=2\n")
	c := fragment(t, "c", "CONFIG_C=1\nCONFIG_B=m\n")
	m, overrides := Merge(a, b, c)
	if got, want := string(m.Bytes()), "CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=1\n# CONFIG_D is not set\n"; got != want {
		t.Error(cmp.Diff(want, got))
	}
	var lines []string
	for _, o := range overrides {
		lines = append(lines, o.String())
	}
	want := []string{
		"b:5: CONFIG_C=2 overrides 1 from a:5",
		"c:1: CONFIG_C=1 overrides 2 from b:5",
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
	if also := m.Asked[0].Also; len(also) != 1 || also[0].Reason != "Why A." {
		t.Errorf("A also asked by %v", also)
	}
}

func TestVerify(t *testing.T) {
	tests := []struct {
		asked, final string
		want         Loss // "" for kept
	}{
		{"CONFIG_A=y", "CONFIG_A=y", ""},
		{"CONFIG_A=y", "", Dropped},
		{"CONFIG_A=y", "# CONFIG_A is not set", Dropped},
		{"CONFIG_A=y", "CONFIG_A=m", Changed},
		{"CONFIG_A=m", "CONFIG_A=y", ""},
		{"CONFIG_A=m", "CONFIG_A=m", ""},
		{"CONFIG_A=m", "", Dropped},
		{"# CONFIG_A is not set", "", ""},
		{"CONFIG_A=n", "# CONFIG_A is not set", ""},
		{"# CONFIG_A is not set", "CONFIG_A=y", Forced},
		{"# CONFIG_A is not set", "CONFIG_A=\"\"", Forced},
		{"CONFIG_A=9", "CONFIG_A=8", Changed},
		{"CONFIG_A=08", "CONFIG_A=8", ""},
		{"CONFIG_A=-1", "CONFIG_A=-01", ""},
		{"CONFIG_A=0x0f", "CONFIG_A=0xF", ""},
		{"CONFIG_A=0x10", "CONFIG_A=10", Changed},
		{`CONFIG_A="x"`, `CONFIG_A="x"`, ""},
		{`CONFIG_A="x"`, `CONFIG_A="X"`, Changed},
		{`CONFIG_A="x"`, ``, Dropped},
	}
	for _, tt := range tests {
		t.Run(tt.asked+"/"+tt.final, func(t *testing.T) {
			m, _ := Merge(fragment(t, "f", tt.asked))
			lost := Verify(m, config(t, tt.final), Notes{})
			var got Loss
			if len(lost) > 0 {
				got = lost[0].Loss
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestVerifyError(t *testing.T) {
	a := fragment(t, "net.config", "# Packets of the tailnet.\nCONFIG_TUN=y\nCONFIG_OK=y\n\n# At most the phone's.\nCONFIG_NR_CPUS=9999\n")
	b := fragment(t, "more.config", "# VPN.\nCONFIG_TUN=y\nCONFIG_TYPO=y\n# Not Android.\n# CONFIG_BINDER is not set\n")
	m, _ := Merge(a, b)
	final := config(t, "CONFIG_OK=y\nCONFIG_NR_CPUS=512\nCONFIG_BINDER=y\n")
	notes, err := ParseNotes(strings.NewReader("unknown TYPO\ndepends TUN drivers/net/Kconfig:380 (NETDEVICES) && (INET)\n"))
	if err != nil {
		t.Fatal(err)
	}
	err = VerifyError(m, final, notes)
	want := `kernel: 4 of 5 symbols asked for are not in the final .config
  more.config:5: CONFIG_BINDER should be off and is y (something selects it); wanted because: Not Android.
  net.config:6: CONFIG_NR_CPUS=9999 became 512; wanted because: At most the phone's.
  more.config:2: CONFIG_TUN=y was dropped (something it depends on is off); depends on drivers/net/Kconfig:380: (NETDEVICES) && (INET); wanted because: VPN.; also net.config:2: Packets of the tailnet.
  more.config:3: CONFIG_TYPO: no such symbol in this kernel; wanted because: VPN.`
	if err == nil || err.Error() != want {
		t.Fatalf("got\n%v\nwant\n%s", err, want)
	}
	if fault.ClassOf(err) != fault.Verification || fault.HintOf(err) == "" {
		t.Errorf("class %d, hint %q", fault.ClassOf(err), fault.HintOf(err))
	}
	var le *LostError
	if !errors.As(err, &le) || len(le.Lost) != 4 || le.Asked != 5 {
		t.Errorf("no LostError inside: %v", le)
	}
	if err := VerifyError(m, config(t, "CONFIG_OK=y\nCONFIG_NR_CPUS=9999\nCONFIG_TUN=y\nCONFIG_TYPO=y\n"), Notes{}); err != nil {
		t.Errorf("nothing is lost, yet %v", err)
	}
}

func TestParseNotes(t *testing.T) {
	got, err := ParseNotes(strings.NewReader("unknown FOO\ndepends BAR a/Kconfig:1 (X) && (Y)\ndepends BAR b/Kconfig:2 y\n"))
	want := Notes{Unknown: []string{"FOO"}, Depends: map[string][]string{"BAR": {"a/Kconfig:1: (X) && (Y)", "b/Kconfig:2: y"}}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Error(err, d)
	}
	for _, bad := range []string{"unknown a-b\n", "unknown\n", "lost FOO\n"} {
		if _, err := ParseNotes(strings.NewReader(bad)); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}

func TestCheckReport(t *testing.T) {
	c := config(t, "CONFIG_SWIOTLB=y\nCONFIG_ANDROID_BINDER_IPC=y\n")
	r, err := Check(c, "pkvm-guest", "no-android")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := `pkvm-guest: 2 of 3 not met
  CONFIG_ARM_PKVM_GUEST must be y and is n: The hypervisor is asked which pages may be shared.
  CONFIG_DMA_RESTRICTED_POOL must be y and is n: The device tree's restricted-dma-pool says which pages those are; without it no device works.
no-android: 1 of 2 not met
  CONFIG_ANDROID_BINDER_IPC must be n and is y: Binder is a large kernel interface that every process could reach and that nothing in a Sovereign image speaks.
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
	if err := r.Err(); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), "no-android: CONFIG_ANDROID_BINDER_IPC must be n") {
		t.Errorf("error %v", err)
	}
	j, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"ok":false`, `"symbol":"ARM_PKVM_GUEST"`, `"got":"n"`, `"loss":"dropped"`, `"reason":"The hypervisor`} {
		if !strings.Contains(string(j), part) {
			t.Errorf("JSON lacks %s: %s", part, j)
		}
	}
	ok, err := Check(config(t, ""), "no-android")
	if err != nil || !ok.OK || ok.Err() != nil {
		t.Errorf("an empty .config has no binder: %v %v", ok, err)
	}
	if _, err := Check(c, "nonsense"); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "virtio") {
		t.Errorf("unknown set: %v, hint %q", err, fault.HintOf(err))
	}
}

func TestDiff(t *testing.T) {
	a := config(t, "#\n# General setup\n#\nCONFIG_A=y\nCONFIG_N=1\n# CONFIG_OFF is not set\nCONFIG_GONE=y\n# end of General setup\n")
	b := config(t, "CONFIG_TOP=y\n#\n# General setup\n#\nCONFIG_A=y\nCONFIG_N=2\n# end of General setup\n\n#\n# Drivers\n#\n\n#\n# Only a comment\n#\nCONFIG_NEW=\"x\"\n\n#\n# Inner\n#\nCONFIG_DEEP=y\n# end of Inner\nCONFIG_LAST=y\n# end of Drivers\n")
	var out strings.Builder
	if err := WriteDiff(&out, Diff(a, b)); err != nil {
		t.Fatal(err)
	}
	want := `(no menu)
  + TOP=y

Drivers
  + LAST=y
  + NEW="x"

Drivers > Inner
  + DEEP=y

General setup
  - GONE=y
  ~ N: 1 -> 2
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}
