package initd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/services"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

func testGuest() *guest { return newGuest(newConsole(), &phases{}, cmdline.Line{}) }

func TestStatesOfAGuest(t *testing.T) {
	g := testGuest()
	if s := g.Status(); s.State != agent.StateBooting || s.Services == nil || s.BootMS != 0 {
		t.Errorf("at first: %+v", s)
	}
	if _, err := g.Secret(t.Context(), "db", "password"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("secret while booting: %v", err)
	}
	if err := g.Freeze(t.Context(), time.Second); err == nil {
		t.Error("freeze while booting was accepted")
	}
	if err := g.Thaw(t.Context()); err != nil {
		t.Errorf("thaw of what is not frozen: %v", err)
	}
	s := spec.Spec{Schema: 1, Name: "sql", Data: spec.Data{FileSystem: "ext4", Mount: "/data"}}
	manager, err := services.New(services.Options{Spec: s})
	if err != nil {
		t.Fatal(err)
	}
	g.setSpec(s)
	g.setServices(manager)
	if s := g.Status(); s.Name != "sql" || s.State != agent.StateReady || s.BootMS == 0 || s.Message != "" {
		t.Errorf("without services: %+v", s)
	}
	g.trouble("network", errors.New("network: eth0: gone"))
	if s := g.Status(); s.State != agent.StateDegraded || s.Message != "network: eth0: gone" {
		t.Errorf("in trouble: %+v", s)
	}
	g.fail(errors.New("data disk: none"))
	if s := g.Status(); s.State != agent.StateFailed || s.Message != "data disk: none" {
		t.Errorf("failed: %+v", s)
	}
	for range 2 {
		answered, end := context.WithCancel(t.Context())
		if err := g.Shutdown(answered); err != nil {
			t.Error(err)
		}
		end()
	}
	<-g.stop
	if s := g.Status(); s.State != agent.StateStopping {
		t.Errorf("after shutdown: %+v", s)
	}
	if _, err := g.Exec(t.Context(), agent.ExecRequest{Argv: []string{"true"}}, agent.ExecIO{}); !errors.Is(err, services.ErrShutdown) {
		t.Errorf("exec after shutdown: %v", err)
	}
	r, err := g.Logs(context.Background(), "init", false)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || !strings.Contains(string(b), "FAILED: data disk: none\n") {
		t.Errorf("init's log: %q, %v", b, err)
	}
}

func TestLoadSpec(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guest.json")
	for _, c := range []struct{ text, want string }{
		{`{"schema":1,"name":"sql"}`, ""},
		{`{"schema":1,"nmae":"sql"}`, `unknown field "nmae"`},
		{`{`, "unexpected EOF"},
		{`[]`, "cannot unmarshal array"},
	} {
		write(t, path, []byte(c.text), 0o644)
		_, err := loadSpec(path)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v", c.text, err)
		}
	}
}

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	for dev, name := range map[string]string{"vport0p0": "", "vport1p2": agent.PortName, "vport1p1": "other"} {
		if err := os.Mkdir(filepath.Join(class, dev), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(class, dev, "name"), []byte(name+"\n"), 0o644)
	}
	if p, err := findPort(class, agent.PortName); err != nil || p != "/dev/vport1p2" {
		t.Errorf("got %q, %v", p, err)
	}
	if p, err := findPort(class, "nope"); err != nil || p != "" {
		t.Errorf("absent: got %q, %v", p, err)
	}
}

func TestRoomOnTheDataDisk(t *testing.T) {
	for _, c := range []struct {
		size, free         int64 // MiB
		nearlyFull, isFull bool
	}{
		{8192, 8000, false, false}, {8192, 800, true, false}, {8192, 81, true, true},
		{1024, 300, false, false}, {1024, 250, true, false}, {256, 70, false, false}, {256, 60, true, false}, {64, 7, true, true},
	} {
		d := agent.Data{Size: c.size << 20, Free: c.free << 20}
		if text, err := nearlyFull(d), full(d); (text != "") != c.nearlyFull || (err != nil) != c.isFull {
			t.Errorf("%+v: %q, %v", c, text, err)
		}
	}
	if d := dataRoom(t.TempDir()); d == nil || d.Free <= 0 || d.Free > d.Size {
		t.Errorf("got %+v", d)
	}
	if n := logSize(&agent.Data{Size: 64 << 20}, 3); n > (64<<20)/16/6 {
		t.Errorf("logs of %d bytes on a small disk", n)
	}
}

func TestPhases(t *testing.T) {
	var p phases
	end := p.begin("first")
	p.begin("second")
	end()
	b := p.boot()
	if len(b.Phases) != 2 || b.Phases[0].EndMS < b.Phases[0].StartMS || b.Phases[1].EndMS != 0 {
		t.Errorf("got %+v", b)
	}
	for range 2 * maxPhases {
		p.begin("more")()
	}
	if n := len(p.boot().Phases); n != maxPhases {
		t.Errorf("%d phases are kept", n)
	}
}

func TestWithin(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	if within(time.Millisecond, func() { <-hang }) || !within(time.Minute, func() {}) {
		t.Error("within does not say which one ended")
	}
}

// Whatever changes the status is told.
func TestChanges(t *testing.T) {
	g := testGuest()
	g.freezer.freeze, g.freezer.thaw = func(string) error { return nil }, func(string) error { return nil }
	s := spec.Spec{Schema: 1, Name: "sql", Data: spec.Data{FileSystem: "ext4", Mount: "/data"}}
	manager, err := services.New(services.Options{Spec: s, Changed: g.news.tell})
	if err != nil {
		t.Fatal(err)
	}
	clear := func(s agent.Status) string {
		s.UptimeMS, s.Data = 0, nil
		return fmt.Sprintf("%+v", s)
	}
	for _, step := range []struct {
		name string
		do   func()
		none bool // nothing changes
	}{
		{name: "spec", do: func() { g.setSpec(s) }},
		{name: "services", do: func() { g.setServices(manager) }},
		{name: "trouble", do: func() { g.trouble("network", errors.New("gone")) }},
		{name: "the same trouble", do: func() { g.trouble("network", errors.New("gone")) }, none: true},
		{name: "another trouble", do: func() { g.trouble("network", errors.New("far gone")) }},
		{name: "well again", do: func() { g.trouble("network", nil) }},
		{name: "clock", do: func() { g.setClock(agent.ClockNTP, nil) }},
		{name: "the same clock", do: func() { g.setClock(agent.ClockNTP, nil) }, none: true},
		{name: "frozen", do: func() { err = g.freezer.Freeze("/data", time.Minute) }},
		{name: "thawed", do: func() { err = g.freezer.Thaw() }},
		{name: "failed", do: func() { g.fail(errors.New("no disk")) }},
		{name: "stopping", do: g.requestStop},
		{name: "stopping still", do: g.requestStop, none: true},
	} {
		before, told := clear(g.Status()), g.Changed()
		step.do()
		if err != nil {
			t.Fatal(err)
		}
		changed := false
		select {
		case <-told:
			changed = true
		default:
		}
		if after := clear(g.Status()); changed == step.none || changed != (before != after) {
			t.Errorf("%s: told %v, before %s, after %s", step.name, changed, before, after)
		}
	}
}
