package initd

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/supervise"
)

func testGuest() *guest { return newGuest(newConsole(), &phases{}, nil) }

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
	sup, err := supervise.New(supervise.Options{Spec: s})
	if err != nil {
		t.Fatal(err)
	}
	g.setSpec(s)
	g.setSupervisor(sup)
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
		if err := g.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if s := g.Status(); s.State != agent.StateStopping {
		t.Errorf("after shutdown: %+v", s)
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
		_, _, err := loadSpec(path)
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
