package qemu

import (
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample(arch string) vm.Machine {
	return vm.Machine{
		Name: "sql", Arch: arch, MemoryMiB: 512, CPUs: 2,
		Cmdline: "roothash=abc root.serial=root data.serial=data",
		Disks: []vm.Disk{
			{Serial: "root", ReadOnly: true},
			{Serial: "data"},
		},
		Card: &vm.Card{
			MAC: net.HardwareAddr{2, 0, 10, 0, 2, 2}, MTU: 65520,
			Address: netip.MustParsePrefix("10.0.2.2/24"), Gateway: netip.MustParseAddr("10.0.2.1"), DNS: netip.MustParseAddr("10.0.2.1"),
			Address6: netip.MustParsePrefix("fd00::2/64"), Gateway6: netip.MustParseAddr("fd00::1"),
		},
		Dir: "/s/instances/sql",
	}
}

// TestArguments compares command lines with testdata, an argument and its
// value a line. -update writes them.
func TestArguments(t *testing.T) {
	alone := sample("amd64")
	alone.Card, alone.Cmdline = nil, ""
	bounce := sample("arm64")
	bounce.Bounce = true
	tests := []struct {
		name string
		args []string
	}{
		{"amd64-tcg", arguments(sample("amd64"), plan{PlanInfo: vm.PlanInfo{Accel: "tcg", Sandbox: true}, firmware: "/qemu/qboot.rom"})},
		{"amd64-kvm", arguments(sample("amd64"), plan{PlanInfo: vm.PlanInfo{Accel: "kvm", Sandbox: true}, firmware: "/qemu/qboot.rom"})},
		{"arm64-tcg", arguments(sample("arm64"), plan{PlanInfo: vm.PlanInfo{Accel: "tcg", Sandbox: true}})},
		{"arm64-kvm", arguments(sample("arm64"), plan{PlanInfo: vm.PlanInfo{Accel: "kvm", Sandbox: true}})},
		{"arm64-bounce", arguments(bounce, plan{PlanInfo: vm.PlanInfo{Accel: "tcg", Sandbox: true}})},
		{"amd64-no-network-no-sandbox", arguments(alone, plan{PlanInfo: vm.PlanInfo{Accel: "tcg"}})},
		{"amd64-probe", probeArguments(sample("amd64"), plan{PlanInfo: vm.PlanInfo{Sandbox: true}, firmware: "/qemu/qboot.rom"})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			for i, a := range tt.args {
				if i > 0 && strings.HasPrefix(a, "-") {
					b.WriteByte('\n')
				} else if i > 0 {
					b.WriteByte(' ')
				}
				b.WriteString(a)
			}
			b.WriteByte('\n')
			path := filepath.Join("testdata", tt.name+".args")
			if *update {
				if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := b.String(); got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
