package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// program writes a shell script that stands in for QEMU.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProbe(t *testing.T) {
	tests := []struct {
		name, script, want string
		limit              time.Duration
	}{
		{"works", "printf 'sovereign-pro'; echo 'be: ok'; exec sleep 600", "", time.Minute},
		{"works and powers off", "echo 'sovereign-probe: ok'", "", time.Minute},
		{"dies", "echo 'error: failed to set MSR 0x10a' >&2; exit 1", "the guest died: error: failed to set MSR 0x10a", time.Minute},
		{"dies in silence", "exit 0", "without a word", time.Minute},
		{"hangs", "exec sleep 600", "no sign of the guest", 50 * time.Millisecond},
		{"floods", "exec yes sovereign", "no sign of the guest", 200 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := &Driver{limit: tt.limit}
			why, err := d.probe(t.Context(), sample("amd64"), plan{PlanInfo: vm.PlanInfo{Program: program(t, tt.script)}})
			if err != nil || tt.want == "" && why != "" || !strings.Contains(why, tt.want) {
				t.Errorf("got %q, %v; want %q", why, err, tt.want)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		d := &Driver{limit: time.Minute}
		if _, err := d.probe(ctx, sample("amd64"), plan{PlanInfo: vm.PlanInfo{Program: program(t, "exec sleep 600")}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// The probe is made once a boot, version and kernel.
func TestVerdictIsKept(t *testing.T) {
	if why := New(t.TempDir()).noKVM(runtime.GOARCH); why != "" {
		t.Skipf("no probe is made here: %s", why)
	}
	d := New(t.TempDir())
	m := sample(runtime.GOARCH)
	m.KernelDigest = "sha256:1"
	var said []string
	settle := func(kernel, script string) plan {
		t.Helper()
		m.KernelDigest = kernel
		p, err := d.accelerate(t.Context(), m, plan{PlanInfo: vm.PlanInfo{Program: program(t, script), Version: "7.2"}}, func(s string) { said = append(said, s) })
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := settle("sha256:1", "exit 1"); p.Accel != "tcg" || p.Why == "" || len(said) != 2 {
		t.Errorf("first: %+v, %q", p, said)
	}
	if p := settle("sha256:1", "echo 'sovereign-probe: ok'"); p.Accel != "tcg" || len(said) != 2 {
		t.Errorf("the same again: %+v, %q", p, said)
	}
	if p := settle("sha256:2", "echo 'sovereign-probe: ok'"); p.Accel != "kvm" || p.Why != "" {
		t.Errorf("another kernel: %+v", p)
	}
	if err := os.WriteFile(d.cache, []byte("{rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := settle("sha256:2", "exit 1"); p.Accel != "tcg" {
		t.Errorf("after the cache was lost: %+v", p)
	}
}

func TestAccelerateWithoutProbe(t *testing.T) {
	d := New(t.TempDir())
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	m := sample(other)
	quiet := func(string) {}
	p, err := d.accelerate(t.Context(), m, plan{}, quiet)
	if err != nil || p.Accel != "tcg" || !strings.Contains(p.Why, "the guest is") {
		t.Errorf("other architecture: %+v, %v", p, err)
	}
	m.Accel = "kvm"
	if _, err := d.accelerate(t.Context(), m, plan{}, quiet); fault.ClassOf(err) != fault.Environment || fault.HintOf(err) == "" {
		t.Errorf("kvm for another architecture: %v", err)
	}
	m.Accel = "magic"
	if _, err := d.accelerate(t.Context(), m, plan{}, quiet); fault.ClassOf(err) != fault.Usage {
		t.Errorf("magic: %v", err)
	}
}

// FuzzVerdicts checks that no cache file makes the reader panic or keep more
// than its limit.
func FuzzVerdicts(f *testing.F) {
	f.Add([]byte(`[{"boot":"b","version":"7.2","kernel":"sha256:1","why":""}]`))
	f.Add([]byte("[[["))
	f.Fuzz(func(t *testing.T, b []byte) {
		if vs := parseVerdicts(b); len(vs) > maxVerdicts {
			t.Errorf("kept %d", len(vs))
		}
	})
}
