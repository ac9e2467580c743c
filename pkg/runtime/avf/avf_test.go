package avf

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/machinekey"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testMachine(t *testing.T) vm.Machine {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	return vm.Machine{
		Name: "sql", Arch: "arm64", MemoryMiB: 512, CPUs: 2, Cmdline: "roothash=00 root.serial=root data.serial=data",
		Kernel: file("kernel"), Initramfs: file("initramfs"),
		Disks: []vm.Disk{{Image: file("root"), Serial: "root", ReadOnly: true}, {Image: file("data"), Serial: "data"}},
		Card: &vm.Card{
			MAC: net.HardwareAddr{2, 0, 10, 0, 2, 2}, MTU: 65520,
			Address: netip.MustParsePrefix("10.0.2.2/24"), Gateway: netip.MustParseAddr("10.0.2.1"), DNS: netip.MustParseAddr("10.0.2.1"),
		},
		Dir: dir,
	}
}

// The file for vm and its command line.
func TestConfig(t *testing.T) {
	for name, edit := range map[string]func(*vm.Machine){
		"plain": func(*vm.Machine) {},
		"no-network-one-cpu-scratch": func(m *vm.Machine) {
			m.Card, m.CPUs = nil, 1
			m.Disks = append(m.Disks, vm.Disk{Serial: "scratch", Scratch: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t)
			edit(&m)
			c, err := configure(m)
			if err != nil {
				t.Fatal(err)
			}
			text, err := c.text()
			if err != nil {
				t.Fatal(err)
			}
			got := "vm " + strings.Join(arguments(m, topologies(m.CPUs)[0]), " ") + "\n" + string(text)
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// fakeVM is a vm of a few lines: what it is held to is in internal/testphone.
func fakeVM(t *testing.T, script string) *Driver {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vm")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return New(Options{Program: path, Dial: func(context.Context, uint32, uint32) (net.Conn, error) { return nil, errors.New("nobody") }})
}

func TestStart(t *testing.T) {
	m := testMachine(t)
	// An older one, which knows no numbers of CPUs.
	d := fakeVM(t, `case "$*" in
*cpu_count=*) echo "error: invalid value 'cpu_count=2' for '--cpu-topology <CPU_TOPOLOGY>': Invalid cpu topology cpu_count=2" >&2; exit 2 ;;
esac
[ -s vm_config.json ] || exit 3
echo 'Created VM from "vm_config.json" with CID 2050, state is STARTING.'
read -r _ <&3
exec sleep 60
`)
	var said []string
	p, err := d.Prepare(t.Context(), m, func(s string) { said = append(said, s) })
	if err != nil || len(said) != 1 || said[0] != Warning {
		t.Fatalf("%v, %q", err, said)
	}
	proc, err := d.Start(t.Context(), m, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proc.Signal(os.Kill) }) //nolint:errcheck // it may have ended
	if n, err := cid(m.Dir); n != 2050 || err != nil {
		t.Errorf("number %d, %v", n, err)
	}
	if found, ok, err := d.Find(t.Context(), m.Dir); err != nil || !ok || found != proc {
		t.Errorf("found %+v, %t, %v", found, ok, err)
	}
	if s, err := d.State(t.Context(), m.Dir); err != nil || s.Word != "running" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := d.Start(t.Context(), m, p); fault.ClassOf(err) != fault.Environment {
		t.Errorf("a second start: %v", err)
	}
	if err := d.Quit(t.Context(), m.Dir); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := d.End(t.Context(), m.Dir, proc); !strings.Contains(text, "was ended") {
		t.Error(text)
	}
}

func TestStartFails(t *testing.T) {
	for name, c := range map[string]struct{ script, text, hint string }{
		"refused": {"echo 'Error: Failed to create VM: does not have the android.permission.MANAGE_VIRTUAL_MACHINE permission' >&2; exit 1", "permission", "by adb"},
		"silent":  {"exit 1", "printed nothing", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fakeVM(t, c.script).Start(t.Context(), testMachine(t), plan{})
			if err == nil || fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), c.text) || !strings.Contains(fault.HintOf(err), c.hint) {
				t.Errorf("%v; hint %q", err, fault.HintOf(err))
			}
		})
	}
	m := testMachine(t)
	m.Protected = true
	if _, err := New(Options{}).Prepare(t.Context(), m, func(string) {}); err == nil || !strings.Contains(err.Error(), "firmware") {
		t.Errorf("protected: %v", err)
	}
	m = testMachine(t)
	if _, err := m.Disks[1].Image.WriteAt([]byte("composite_disk\x1d"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{}).Start(t.Context(), m, plan{}); err == nil || !strings.Contains(err.Error(), "composite") {
		t.Errorf("a disk that is not raw: %v", err)
	}
}

func TestEnd(t *testing.T) {
	dir := t.TempDir()
	text := "VM ended: Lie\n[    1.0] sovereign-init: power off\nVM ended: Shutdown\n"
	if err := os.WriteFile(filepath.Join(dir, vm.ConsoleFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := New(Options{}).End(t.Context(), dir, vm.Process{}); got != "Android's vm says: Shutdown" {
		t.Error(got)
	}
}

// A guest is reached through a relay, with the proof of both ends; one that is gone
// is passed over, and without any it is said what is missing.
func TestRelay(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	key := machinekey.New()
	if err := os.WriteFile(filepath.Join(dir, "key.img"), key.Disk(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, cidFile), []byte("2050\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := New(Options{Dial: DialRelays(state)})
	if _, err := d.DialNetwork(t.Context(), dir); err == nil || !strings.Contains(err.Error(), errNoRelay.Error()) {
		t.Errorf("without a relay: %v", err)
	}
	// One that was killed.
	l, err := process.Listen(filepath.Join(state, "1.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()

	phone, computer := net.Pipe()
	guest := func(_ context.Context, cid, port uint32) (net.Conn, error) {
		if cid != 2050 || port != 1025 {
			return nil, fmt.Errorf("nothing at %d:%d", cid, port)
		}
		ours, theirs := net.Pipe()
		go func() {
			if key.Guest(t.Context(), theirs, port) == nil {
				io.Copy(theirs, theirs) //nolint:errcheck // until it is closed
			}
		}()
		return ours, nil
	}
	ended := make(chan error, 2)
	go func() { ended <- Relay(t.Context(), state, phone) }()
	go func() { ended <- ServeRelay(t.Context(), computer, guest) }()
	var conn net.Conn
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if conn, err = d.DialNetwork(t.Context(), dir); err == nil {
			break
		}
		if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, "frames"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "frames" {
		t.Errorf("%q, %v", b, err)
	}
	conn.Close()
	if _, err := DialRelays(state)(t.Context(), 2051, 1); err == nil || !strings.Contains(err.Error(), "nothing at 2051:1") {
		t.Errorf("no such machine: %v", err)
	}
	computer.Close()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(state, "*.sock")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func FuzzConnectLine(f *testing.F) {
	for _, s := range []string{"CONNECT 2050 1024", "CONNECT 2 1", "CONNECT 4294967296 1", "", "CONNECT  1 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		cid, port, err := parseConnect(line)
		if err == nil && (cid < 3 || !strings.HasPrefix(line, "CONNECT ")) {
			t.Errorf("%q gave %d:%d", line, cid, port)
		}
	})
}

func FuzzSaid(f *testing.F) {
	f.Add([]byte("Created VM from \"c\" with CID 2050, state is STARTING.\n"))
	f.Add([]byte("Created VM from x with CID 99999999999, state is \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "c")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if n, ok := saidCID(path, 0); ok && n < 3 {
			t.Errorf("number %d", n)
		}
	})
}
