package machine

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

func TestExec(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	var out, errs bytes.Buffer
	code, err := i.Exec(t.Context(), agent.ExecRequest{Argv: []string{"cat", "-n"}, User: "postgres"},
		agent.ExecIO{Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errs})
	if err != nil || code != 3 || out.String() != "[cat -n] as postgres: in" || errs.String() != "complaint" {
		t.Errorf("code %d, %v, %q, %q", code, err, out.String(), errs.String())
	}
	if _, err := i.Exec(t.Context(), agent.ExecRequest{Argv: []string{"missing"}}, agent.ExecIO{}); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("got %v", err)
	}
	boot, err := i.Boot(t.Context())
	if err != nil || len(boot.Phases) != 2 || boot.Phases[0].EndMS != 800.5 {
		t.Errorf("%+v, %v", boot, err)
	}
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Exec(t.Context(), agent.ExecRequest{Argv: []string{"true"}}, agent.ExecIO{}); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "not running") {
		t.Errorf("when it is off: %v", err)
	}
}

func TestSecrets(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	owner := SecretRef{Service: "postgresql", Name: "owner"}
	if got := i.Secrets(); !slices.Equal(got, []SecretRef{owner}) {
		t.Errorf("secrets %v", got)
	}
	if v, err := i.Secret(t.Context(), owner); err != nil || v != "p@ss/w:rd %" {
		t.Errorf("%q, %v", v, err)
	}
	if err := i.RotateSecret(t.Context(), owner); err != nil {
		t.Error(err)
	}
	if err := i.SetSecret(t.Context(), owner, "given"); err != nil {
		t.Error(err)
	}
	if err := i.SetSecret(t.Context(), owner, strings.Repeat("x", agent.MaxSecret+1)); fault.ClassOf(err) != fault.Usage {
		t.Errorf("too long: %v", err)
	}
	if err := i.RotateSecret(t.Context(), SecretRef{Service: "postgresql", Name: "other"}); fault.ClassOf(err) != fault.Device {
		t.Errorf("unknown to the guest: %v", err)
	}
	for _, ref := range []SecretRef{{Service: "nobody", Name: "owner"}, {Service: "postgresql"}} {
		if err := i.SetSecret(t.Context(), ref, "given"); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%v: %v", ref, err)
		}
	}
}

func TestLogs(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	for _, follow := range []bool{false, true} {
		var got []string
		err := i.Logs(t.Context(), nil, follow, func(l LogLine) error {
			got = append(got, l.Service+"|"+l.Text)
			return nil
		})
		slices.Sort(got)
		if want := []string{"init|a line", "postgresql|a line"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("follow %v: %q, %v", follow, got, err)
		}
	}
	if err := i.Logs(t.Context(), []string{"postgres"}, false, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "init, postgresql") {
		t.Errorf("no such service: %v", err)
	}
	enough := fault.Errorf(fault.Environment, "the pipe is closed")
	if err := i.Logs(t.Context(), []string{"init"}, false, func(LogLine) error { return enough }); err != enough { //nolint:errorlint // the very one
		t.Errorf("got %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	if err := i.Logs(ended, []string{"init"}, true, func(LogLine) error { cancel(); <-ended.Done(); return ended.Err() }); err != nil {
		t.Errorf("a follower that has enough: %v", err)
	}
}

func TestMemory(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
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
	i := f.start(t, StartOptions{})
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
	f.start(t, StartOptions{}) // and it starts with it
	if info, err := os.Stat(path); err != nil || info.Size() != 3<<30 {
		t.Errorf("after the next start: %v, %v", info.Size(), err)
	}
}

func TestConsole(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, StartOptions{})
	if _, err := i.Console(t.Context()); fault.ClassOf(err) != fault.Device || fault.HintOf(err) == "" {
		t.Errorf("without a socket: %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(i.Dir(), vm.ConsoleSocket))
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
