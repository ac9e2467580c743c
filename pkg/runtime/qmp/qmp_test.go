package qmp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const hello = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"]}}` + "\n"

// script answers each line it reads with the next text; an empty text answers
// nothing.
func script(t *testing.T, first string, answers ...string) net.Conn {
	t.Helper()
	host, qemu := net.Pipe()
	t.Cleanup(func() { qemu.Close() })
	go func() {
		defer qemu.Close()
		if _, err := io.WriteString(qemu, first); err != nil {
			return
		}
		lines := bufio.NewScanner(qemu)
		for _, a := range answers {
			if !lines.Scan() {
				return
			}
			if _, err := io.WriteString(qemu, a); err != nil {
				return
			}
		}
		for lines.Scan() { // silent from here
		}
	}()
	return host
}

func TestExecute(t *testing.T) {
	c, err := New(t.Context(), script(t, hello,
		`{"return": {}, "id": 1}`+"\n",
		`{"event": "RESUME", "timestamp": {"seconds": 1}}`+"\n"+`{"return": {"status": "running", "running": true}, "id": 2}`+"\n",
		`{"error": {"class": "CommandNotFound", "desc": "The command dance has not been found"}, "id": 3}`+"\n",
		"{not json}\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Version != "7.2.22" {
		t.Errorf("version %q", c.Version)
	}
	var s struct{ Status string }
	if err := c.Execute(t.Context(), "query-status", nil, &s); err != nil || s.Status != "running" {
		t.Errorf("query-status: %q, %v", s.Status, err)
	}
	var refused *CommandError
	if err := c.Execute(t.Context(), "dance", nil, nil); !errors.As(err, &refused) || refused.Class != "CommandNotFound" || fault.ClassOf(err) != fault.Device {
		t.Errorf("dance: %v", err)
	}
	if err := c.Execute(t.Context(), "stop", nil, nil); err == nil || !strings.Contains(err.Error(), "{not json}") {
		t.Errorf("rubbish: %v", err)
	}
}

func TestEndings(t *testing.T) {
	long := `{"event": "` + strings.Repeat("x", maxLine) + "\"}\n"
	tests := []struct{ name, first, want string }{
		{"other greeting", "SSH-2.0\n", "message"},
		{"no greeting", `{"return": {}}` + "\n", "does not greet like QEMU"},
		{"too long", long, "longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := New(t.Context(), script(t, tt.first)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := New(ctx, script(t, "")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("gone", func(t *testing.T) {
		host, qemu := net.Pipe()
		qemu.Close()
		if _, err := New(t.Context(), host); err == nil || fault.ClassOf(err) != fault.Device {
			t.Errorf("got %v", err)
		}
	})
}

// TestRealQEMU drives a QEMU that stands still before its first instruction.
func TestRealQEMU(t *testing.T) {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	socket := filepath.Join(t.TempDir(), "q")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// QEMU connects to us, so that there is nothing to wait for but it.
	cmd := exec.CommandContext(t.Context(), program, "-nodefaults", "-no-user-config", "-display", "none",
		"-M", "none", "-S", "-qmp", "unix:"+socket)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Status  string
		Running bool
	}
	if err := c.Execute(t.Context(), "query-status", nil, &s); err != nil || s.Status != "prelaunch" || s.Running {
		t.Errorf("query-status: %+v, %v", s, err)
	}
	if err := c.Execute(t.Context(), "device_del", map[string]string{"id": "nobody"}, nil); err == nil {
		t.Error("device_del of nothing worked")
	}
	if err := c.Execute(t.Context(), "quit", nil, nil); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// FuzzParse checks that no line makes the reader panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte(hello))
	f.Add([]byte(`{"return": [], "id": -1}`))
	f.Add([]byte(`{"error": null, "event": 3}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if m, err := parse(line); err == nil && m.Error != nil {
			_ = m.Error.Error()
		}
	})
}
