package machine

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestMemory(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, UpOptions{})
	m, err := i.Balloon(t.Context(), 256<<20)
	if want := (Memory{Now: 256 << 20, Max: 512 << 20}); err != nil || m != want {
		t.Errorf("%+v, %v", m, err)
	}
	for _, size := range []int64{0, -1, 1 << 40, 513 << 20} {
		if _, err := i.Balloon(t.Context(), size); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%d: %v", size, err)
		}
	}
}

func TestGrow(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, UpOptions{})
	path := filepath.Join(i.Dir(), dataFile)
	if g, err := i.Grow(t.Context(), 2<<30); err != nil || g != (Grown{Before: 1 << 30, Size: 2 << 30, Online: true}) {
		t.Errorf("running: %+v, %v", g, err)
	}
	if g, err := i.Grow(t.Context(), 2<<30); err != nil || !g.Online {
		t.Errorf("again: %+v, %v", g, err)
	}
	for _, size := range []int64{1 << 30, 2<<30 + 1, 1 << 50, -1 << 20} {
		if _, err := i.Grow(t.Context(), size); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%d: %v", size, err)
		}
	}
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if g, err := i.Grow(t.Context(), 3<<30); err != nil || g.Online {
		t.Errorf("stopped: %+v, %v", g, err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 3<<30 {
		t.Errorf("%v, %v", info.Size(), err)
	}
	f.start(t, UpOptions{}) // and it starts with it
	if info, err := os.Stat(path); err != nil || info.Size() != 3<<30 {
		t.Errorf("after the next start: %v, %v", info.Size(), err)
	}
}

func TestConsole(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, UpOptions{})
	if _, err := i.Console(t.Context()); fault.ClassOf(err) != fault.Device || fault.HintOf(err) == "" {
		t.Errorf("without a socket: %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(i.Dir(), machinetest.ConsoleSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.Copy(c, c) //nolint:errcheck // the test ends it
			c.Close()
		}
	}()
	for range 2 {
		c, err := i.Console(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Console(t.Context()); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "another program") {
			t.Errorf("a second one: %v", err)
		}
		if _, err := io.WriteString(c, "echo"); err != nil {
			t.Error(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "echo" {
			t.Errorf("%q, %v", got, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := i.ConsoleTail(3); !strings.Contains(got, "Linux version") {
		t.Errorf("tail %q", got)
	}
}

func TestTooOld(t *testing.T) {
	i := &Instance{rec: record{Name: "sql"}}
	for text, old := range map[string]bool{
		"guest agent: POST /v1/exec: 404 Not Found: 404 page not found":                true,
		"guest agent: PUT /v1/secrets/a/b: 405 Method Not Allowed: Method Not Allowed": true,
		"guest agent: GET /v1/secrets/a/b: 404 Not Found: a has no secret b":           false,
	} {
		err := i.tooOld(fault.Errorf(fault.Device, "%s", text))
		if got := strings.Contains(err.Error(), "too old"); got != old || got != (fault.HintOf(err) != "") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := i.tooOld(nil); err != nil {
		t.Error(err)
	}
}
