package cmdline

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

var hash = strings.Repeat("0a", 32)

func TestParse(t *testing.T) {
	static := &Net{Device: "eth0", Address: netip.MustParsePrefix("10.0.2.15/24"),
		Gateway: netip.MustParseAddr("10.0.2.2"), DNS: []netip.Addr{netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("fec0::3")}}
	for _, c := range []struct {
		text string
		want Line
	}{
		{"", Line{}},
		{"quiet foo=bar console=ttyS0", Line{}},
		{"roothash=" + hash + " root.serial=root data.serial=data\n",
			Line{RootHash: []byte(strings.Repeat("\n", 32)), RootSerial: "root", DataSerial: "data"}},
		{"sovereign.net=eth0,10.0.2.15/24,10.0.2.2,10.0.2.3;fec0::3", Line{Net: static}},
		{"sovereign.net=eth0,dhcp panic=-1", Line{Net: &Net{Device: "eth0", DHCP: true}, Panic: "-1"}},
		{"sovereign.net=e,fd00::2/64,", Line{Net: &Net{Device: "e", Address: netip.MustParsePrefix("fd00::2/64")}}},
		{"sovereign.net6=eth0,auto", Line{Net6: &Net{Device: "eth0", Auto: true}}},
		{"sovereign.net6=eth0,auto,fec0::3", Line{Net6: &Net{Device: "eth0", Auto: true, DNS: []netip.Addr{netip.MustParseAddr("fec0::3")}}}},
		{"sovereign.net6=eth0,fd00::2/64,fe80::1", Line{Net6: &Net{Device: "eth0", Address: netip.MustParsePrefix("fd00::2/64"), Gateway: netip.MustParseAddr("fe80::1")}}},
		{"sovereign.ntp=10.0.2.2;time.example.org;fd00::1", Line{NTP: []string{"10.0.2.2", "time.example.org", "fd00::1"}}},
		{"sovereign.key=k sovereign.tap=eth0,02:00:0a:00:02:02,65520",
			Line{KeySerial: "k", Tap: &Tap{Device: "eth0", MAC: net.HardwareAddr{2, 0, 10, 0, 2, 2}, MTU: 65520}}},
		{"data.serial=a sovereign.probe data.serial=b", Line{DataSerial: "b", Probe: true}},
	} {
		got, err := Parse(c.text)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q:\n got %+v, %v\nwant %+v", c.text, got, err, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"roothash=00", `roothash="00": want 64 hex digits`},
		{"roothash", "roothash"},
		{"root.serial=", "1 to 20 bytes"},
		{"data.serial=" + strings.Repeat("x", 21), "1 to 20 bytes"},
		{"sovereign.net=", "device name"},
		{"sovereign.net=../x,dhcp", "device name"},
		{"sovereign.net=eth0", "want DEVICE"},
		{"sovereign.net=eth0,10.0.2.15,10.0.2.2", "address"},
		{"sovereign.net=eth0,10.0.2.15/24,fd00::1", "same family"},
		{"sovereign.net=eth0,10.0.2.15/24,10.0.2.2,", "dns"},
		{"sovereign.net=eth0,10.0.2.15/24,10.0.2.2,1.1.1.1;1.1.1.2;1.1.1.3;1.1.1.4", "at most 3"},
		{"sovereign.net6=eth0,dhcp", "want DEVICE"},
		{"sovereign.net6=eth0,auto,x", "dns"},
		{"sovereign.net6=eth0,10.0.2.15/24,10.0.2.2", "want IPv6"},
		{"sovereign.ntp=", "neither a name nor an address"},
		{"sovereign.ntp=a/c", "neither a name"},
		{"sovereign.ntp=1;2;3;4;5", "at most 4"},
		{"sovereign.key=", "1 to 20 bytes"},
		{"sovereign.key=k sovereign.tap=eth0", "want DEVICE,MAC,MTU"},
		{"sovereign.key=k sovereign.tap=../x,02:00:0a:00:02:02,1500", "device name"},
		{"sovereign.key=k sovereign.tap=eth0,01:00:0a:00:02:02,1500", "hardware address"},
		{"sovereign.key=k sovereign.tap=eth0,02:00:0a:00:02:02,1279", "MTU"},
		{"sovereign.key=k sovereign.tap=eth0,02:00:0a:00:02:02,65521", "MTU"},
		{"sovereign.tap=eth0,02:00:0a:00:02:02,1500", "needs sovereign.key"},
		{strings.Repeat("x", 17<<10), "over"},
	} {
		if _, err := Parse(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: got %v, want %q", c.text, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("roothash=" + hash + " root.serial=root sovereign.net=eth0,10.0.2.15/24,10.0.2.2,10.0.2.3;10.0.2.4")
	f.Add("sovereign.net=eth0,dhcp sovereign.probe")
	f.Add("sovereign.key=k sovereign.tap=eth0,02:00:0a:00:02:02,65520")
	f.Add("sovereign.net6=eth0,auto,fec0::3 sovereign.net6=eth0,fd00::2/64,fe80::1 sovereign.ntp=a.b;10.0.0.1")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Parse(text)
		if err != nil {
			return
		}
		if l.RootHash != nil && len(l.RootHash) != 32 || len(l.RootSerial) > maxSerial {
			t.Errorf("%q: %+v", text, l)
		}
		for _, n := range []*Net{l.Net, l.Net6} {
			if n != nil && !n.DHCP && !n.Auto && !n.Address.IsValid() {
				t.Errorf("%q: %+v", text, n)
			}
		}
	})
}
