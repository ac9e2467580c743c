package qemu

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/qmp"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// started is a real QEMU without a guest worth the name.
func started(t *testing.T, alter func(*vm.Machine)) (*Driver, vm.Machine) {
	t.Helper()
	m := machine(t, "arm64")
	if alter != nil {
		alter(&m)
	}
	d := New(t.TempDir())
	p, err := d.Prepare(t.Context(), m, func(string) {})
	if err != nil {
		t.Skip(err)
	}
	proc, err := d.Start(t.Context(), m, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proc.Signal(os.Kill); err != nil {
			t.Error(err)
		}
	})
	return d, m
}

func TestGrowDisk(t *testing.T) {
	d, m := started(t, func(m *vm.Machine) { m.Disks[1].Serial = "data,1" })
	path := m.Disks[1].Image.Name()
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what was done already is done again
		if err := d.GrowDisk(t.Context(), m.Dir, "data,1", size); err != nil {
			t.Fatal(err)
		}
	}
	c, err := d.connect(t.Context(), m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	_, now, err := findDisk(t.Context(), c, "data,1")
	if err := errors.Join(err, c.Close()); err != nil || now != size {
		t.Errorf("the machine sees %d bytes, %v", now, err)
	}
	if err := d.GrowDisk(t.Context(), m.Dir, "data,1", before.Size()); fault.ClassOf(err) != fault.Usage {
		t.Errorf("shrinking: %v", err)
	}
	if err := d.GrowDisk(t.Context(), m.Dir, "other", size); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("an unknown disk: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != size {
		t.Errorf("the image: %v", err)
	}
}

func TestBalloon(t *testing.T) {
	// With bounce buffers, so that QEMU judges those options as well.
	d, m := started(t, func(m *vm.Machine) { m.Bounce = true })
	if got, err := d.Memory(t.Context(), m.Dir); err != nil || got != 128<<20 {
		t.Errorf("memory %d, %v", got, err)
	}
	if err := d.Balloon(t.Context(), m.Dir, 96<<20); err != nil {
		t.Error(err)
	}
	if err := d.Balloon(t.Context(), m.Dir, -1); err == nil {
		t.Error("a negative size was taken")
	}
}

// A machine that somebody paused, and whose machine protocol he keeps, still
// tells that it is paused, and ends when it has to.
func TestProtocolInUse(t *testing.T) {
	d, m := started(t, nil)
	conn, err := process.Dial(t.Context(), filepath.Join(m.Dir, qmpSocket))
	if err != nil {
		t.Fatal(err)
	}
	somebody, err := qmp.New(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer somebody.Close()
	if err := somebody.Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	limit, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if s, err := d.State(limit, m.Dir); err != nil || s != (vm.State{Held: true, Word: "paused"}) {
		t.Errorf("status %+v, %v", s, err)
	}
	if err := d.Quit(limit, m.Dir); err != nil {
		t.Error(err)
	}
}

// One client has the console at a time, the log has all, and what is typed
// does not stop the machine.
func TestConsoleSocket(t *testing.T) {
	d, m := started(t, nil)
	conn, err := d.OpenConsole(t.Context(), m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\r"); err != nil {
		t.Error(err)
	}
	if s, err := d.State(t.Context(), m.Dir); err != nil || s.Held {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := os.Stat(filepath.Join(m.Dir, vm.ConsoleFile)); err != nil {
		t.Error(err)
	}
}
