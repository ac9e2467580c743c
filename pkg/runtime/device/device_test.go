package device

import (
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestParse(t *testing.T) {
	for name, want := range map[string]Device{
		"": {}, "local": {},
		"ssh:nas":                       {bySSH, "nas"},
		"ssh:ann@nas.lan":               {bySSH, "ann@nas.lan"},
		"ssh:ssh://ann@[fe80::1]:22":    {bySSH, "ssh://ann@[fe80::1]:22"},
		"adb:127.0.0.1:5555":            {byADB, "127.0.0.1:5555"},
		"exec:adb shell sovereignd c":   {byCommand, "adb shell sovereignd c"},
		"exec:a 'b c' | d; exec \"$E\"": {byCommand, "a 'b c' | d; exec \"$E\""},
	} {
		got, err := Parse(name)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if got.String() != name && name != "" {
			t.Errorf("%s is written %s", name, got)
		}
	}
	for _, name := range []string{
		"nas", "ssh:", "ssh", "exec:", "exec: ", "exec", "local:", "SSH:nas", "adb:", "adb:-s", "adb:a b",
		"ssh:-oProxyCommand=id", "ssh:a b", "ssh:a\tb", "ssh:a\nb", "ssh:a\x1b[2J", "exec:a\x00b",
		"ssh:" + strings.Repeat("x", maxName),
	} {
		if got, err := Parse(name); fault.ClassOf(err) != fault.Usage || name != "local:" && fault.HintOf(err) == "" && len(name) < maxName {
			t.Errorf("%.40q: %+v, %v", name, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"", "local", "ssh:ann@nas", "ssh:-v", "exec:a b", "ssh:ssh://a:1", "x:y"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		d, err := Parse(name)
		if err != nil {
			if fault.ClassOf(err) != fault.Usage {
				t.Fatalf("%q: %v", name, err)
			}
			return
		}
		if again, err := Parse(d.String()); err != nil || again != d {
			t.Fatalf("%q: %+v, then %+v, %v", name, d, again, err)
		}
		if host, ok := d.SSH(); ok && (host == "" || host[0] == '-' || strings.ContainsAny(host, " \t\r\n\x00")) {
			t.Fatalf("%q gives ssh %q", name, host)
		}
	})
}
