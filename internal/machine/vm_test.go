package machine

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// TestRealBundle boots the bundle that SOVEREIGN_E2E names, twice,
// under QEMU.
func TestRealBundle(t *testing.T) {
	dir := os.Getenv("SOVEREIGN_E2E")
	if dir == "" {
		t.Skip("SOVEREIGN_E2E names no bundle")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	state := t.TempDir()
	r, err := Open(state)
	if err != nil {
		t.Fatal(err)
	}
	report := func(e Event) { t.Logf("%-8s %s", e.Phase, e.Text) }
	var before os.FileInfo
	for boot := range 2 {
		begin := time.Now()
		i, err := r.Start(ctx, dir, StartOptions{Report: report})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if p, alive, err := i.running(context.Background()); err == nil && alive {
				if err := i.cutPower(context.Background(), p); err != nil {
					t.Error(err)
				}
			}
		})
		started := time.Since(begin)
		if err := i.WaitReady(ctx, report); err != nil {
			t.Fatalf("%v\nhint: %s", err, fault.HintOf(err))
		}
		ready := time.Since(begin)
		s, err := i.Status(ctx)
		if err != nil || s.Guest == nil {
			t.Fatalf("status: %+v, %v", s, err)
		}
		t.Logf("boot %d: QEMU up after %v, ready after %v; the guest counts %d ms; %s",
			boot, started.Round(time.Millisecond), ready.Round(time.Millisecond), s.Guest.BootMS, i.Machine().Accel)
		for _, p := range i.Ports() {
			c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Host)))
			if err != nil {
				t.Error(err)
				continue
			}
			c.Close()
		}
		if _, err := i.urlPort(0); err == nil {
			if url, err := i.URL(ctx, 0); err != nil || url == "" {
				t.Errorf("url: %v", err)
			}
		}
		info, err := os.Stat(filepath.Join(i.Dir(), dataFile))
		if err != nil || before != nil && !os.SameFile(before, info) {
			t.Errorf("data disk: %v", err)
		}
		before = info
		res, err := i.Stop(ctx, 0)
		if err != nil || res.Forced {
			t.Fatalf("stop: %+v, %v", res, err)
		}
		t.Logf("stopped in %.2f s", res.Seconds)
	}
}
