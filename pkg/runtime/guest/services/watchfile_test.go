package services

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

func TestWatchFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "state")
	changed, stop, err := watchFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	told := func() bool {
		select {
		case <-changed:
			return true
		case <-time.After(10 * time.Second):
			return false
		}
	}
	write := func(p string) func() {
		return func() { must(os.WriteFile(p, []byte("x"), 0o600)) }
	}
	for _, c := range []struct {
		what string
		do   func()
	}{
		{"made", write(name)},
		{"written", write(name)},
		{"replaced", func() { must(os.Rename(name, name+"2")); must(os.Rename(name+"2", name)) }},
	} {
		c.do()
		if !told() {
			t.Errorf("%s: not told", c.what)
		}
	}
	if _, _, err := watchFile(filepath.Join(dir, "no", "state")); err == nil || !strings.Contains(err.Error(), "no/state") {
		t.Errorf("a directory that is not there: got %v", err)
	}
}

func TestMentions(t *testing.T) {
	event := func(mask byte, name string) []byte {
		b := make([]byte, 16+16)
		b[5], b[12] = mask, 16 // the second byte of the mask, the length
		copy(b[16:], name)
		return b
	}
	for _, c := range []struct {
		what   string
		events []byte
		want   bool
	}{
		{"nothing", nil, false},
		{"another, then it", append(event(0, "other"), event(0, "state")...), true},
		{"another", event(0, "stat"), false},
		{"lost events", event(0x40, ""), true}, // IN_Q_OVERFLOW is 0x4000
		{"cut short", event(0, "state")[:20], true},
		{"a rest", []byte{1, 2}, false},
	} {
		if got := mentions(c.events, "state"); got != c.want {
			t.Errorf("%s: got %v", c.what, got)
		}
	}
}

// A service that tells of changes is found ready at once, although the clock
// has no check for an hour.
func TestWatchedServiceIsCheckedAtChanges(t *testing.T) {
	dir := t.TempDir()
	checks := filepath.Join(dir, "checks")
	r := startWith(t, "", func(o *Options) { o.Timing.FirstWatched = time.Hour },
		svc("db", "echo starting >"+dir+"/state; sleep 0.3; echo ready >"+dir+"/state; exec sleep 1000",
			health("echo x >>"+checks+"; read -r s <"+dir+"/state; [ $s = ready ]", 1),
			func(s *spec.Service) { s.Health.Watch, s.Health.IntervalSeconds = dir+"/state", 3600 }))
	r.state(agent.StateReady)
	b, err := os.ReadFile(checks)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "x"); n > 4 { // made, and written twice
		t.Errorf("%d checks", n)
	}
}
