package doctor

import (
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

func TestPhone(t *testing.T) {
	good := device.PhoneFacts{
		Model: "Pixel 7", Android: "16", SDK: 36, Root: device.RootSuC, Manager: "magisk 28.1", AVF: true, Protected: true,
		Device: "/dev/kvm", CrosVM: "/apex/com.android.virt/bin/crosvm", Vsock: true, DataFree: 20 << 30, DataSize: 100 << 30,
		Memory: 12 << 30, Available: 6 << 30, Battery: 90, Charging: "Full",
	}
	levels := func(change func(*device.Facts), s *runtime.PhoneStatus) map[string]Level {
		p := good
		f := device.Facts{Phone: &p, Digest: "sha256:1", Unit: "/data/adb/service.d/sovereign.sh"}
		change(&f)
		worst := map[string]Level{}
		for _, x := range Phone(f, s) {
			if x.Level != OK && x.Mend == "" && x.Level == Missing {
				t.Errorf("%+v says not how to mend it", x)
			}
			if worst[x.Check] != Missing && (x.Level != OK || worst[x.Check] == "") {
				worst[x.Check] = x.Level
			}
		}
		return worst
	}
	durable := &runtime.PhoneStatus{Durable: true}
	for check, level := range levels(func(*device.Facts) {}, durable) {
		if level != OK {
			t.Errorf("%s is %s", check, level)
		}
	}
	for _, tt := range []struct {
		change func(*device.Facts)
		s      *runtime.PhoneStatus
		check  string
		want   Level
	}{
		{func(f *device.Facts) { f.Phone.Root, f.Phone.NoRoot = "", "it says no" }, nil, "root", Missing},
		{func(f *device.Facts) { f.Digest = "" }, nil, "sovereignd", Missing},
		{func(f *device.Facts) { f.Unit = "" }, durable, "start at boot", Warning},
		{func(f *device.Facts) { f.Phone.Manager = "" }, durable, "start at boot", Warning},
		{func(f *device.Facts) { f.Phone.SafeMode = true }, durable, "start at boot", Warning},
		{func(f *device.Facts) { f.Phone.Device = "" }, durable, "hypervisor", Missing},
		{func(f *device.Facts) { f.Phone.AVF = false }, durable, "hypervisor", Warning},
		{func(f *device.Facts) { f.Phone.CrosVM = "" }, durable, "crosvm", Missing},
		{func(f *device.Facts) { f.Phone.Vsock = false }, durable, "vsock", Missing},
		{func(f *device.Facts) { f.Phone.Protected = false }, durable, "protected machines", Warning},
		{func(f *device.Facts) { f.Phone.Model = "Pixel 9 Pro" }, durable, "known faults", Warning},
		{func(f *device.Facts) { f.Phone.Device = "/dev/gunyah" }, durable, "known faults", Warning},
		{func(f *device.Facts) { f.Phone.DataFree = 100 << 20 }, durable, "room", Missing},
		{func(f *device.Facts) { f.Phone.Available = 100 << 20 }, durable, "memory", Warning},
		{func(f *device.Facts) { f.Phone.Charging = "Discharging" }, durable, "battery", Warning},
		{func(*device.Facts) {}, &runtime.PhoneStatus{NotDurable: "cgroup"}, "sovereignd", Warning},
		{func(*device.Facts) {}, &runtime.PhoneStatus{Durable: true, Held: "it boots"}, "machines", Warning},
		{func(*device.Facts) {}, &runtime.PhoneStatus{Durable: true, Heat: &runtime.PhoneHeat{Celsius: 95}}, "heat", Warning},
	} {
		if got := levels(tt.change, tt.s)[tt.check]; got != tt.want {
			t.Errorf("%s: %q, want %q", tt.check, got, tt.want)
		}
	}
	if found := Phone(device.Facts{}, nil); found != nil {
		t.Errorf("no phone: %v", found)
	}
	p := good
	p.Model, p.Device = "Pixel 6a", ""
	for _, x := range Phone(device.Facts{Phone: &p}, nil) {
		if x.Check == "hypervisor" && !strings.Contains(x.Mend, "fastboot oem pkvm enable") {
			t.Errorf("%+v", x)
		}
	}
}
