package crosvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/machinekey"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// script makes a program that is a shell script.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "crosvm")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// controlled is a directory with a control socket that answers as given; "" is no
// answer.
func controlled(t *testing.T, answer func(request string) string) (dir string, asked chan string) {
	t.Helper()
	dir, asked = t.TempDir(), make(chan string, 10)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(dir, controlSocket)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				for {
					n, err := c.Read(b)
					if err != nil || n == 0 {
						return
					}
					asked <- string(b[:n])
					if a := answer(string(b[:n])); a != "" {
						c.Write([]byte(a))
					}
				}
			}()
		}
	}()
	return dir, asked
}

func TestControl(t *testing.T) {
	d := New(Options{Program: "/nothing"})
	answers := map[string]string{}
	dir, asked := controlled(t, func(r string) string { return answers[r] })
	if err := writeRecord(dir, record{MemoryMiB: 512, Disks: []string{"root", "data"}, Program: "/nothing"}); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, c := range []struct {
		request, answer string
		do              func() error
		fails           string
	}{
		{`"Exit"`, `"Ok"`, func() error { return d.Quit(ctx, dir) }, ""},
		{`"ResumeVcpus"`, `{"Err":95}`, func() error { return d.Resume(ctx, dir) }, "not supported"},
		{`{"BalloonCommand":{"Adjust":{"num_bytes":268435456,"wait_for_success":false}}}`, `"Ok"`,
			func() error { return d.Balloon(ctx, dir, 256<<20) }, ""},
		{`{"DiskCommand":{"command":{"Resize":{"new_size":4096}},"disk_index":1}}`, `{"ErrString":"no room"}`,
			func() error { return d.GrowDisk(ctx, dir, "data", 4096) }, "no room"},
		{`{"BalloonCommand":"Stats"}`, `{"BalloonStats":{"stats":{"free_memory":null},"balloon_actual":134217728}}`, func() error {
			n, err := d.Memory(ctx, dir)
			if err == nil && n != 384<<20 {
				err = fmt.Errorf("%d bytes", n)
			}
			return err
		}, ""},
		{`{"BalloonCommand":"Stats"}`, `"Ok"`, func() error { _, err := d.Memory(ctx, dir); return err }, "asked for the balloon"},
		{`"VcpuPidTid"`, `{"VcpuPidTidResponse":{"pid_tid_map":{"0":[1,1]}}}`, func() error {
			s, err := d.State(ctx, dir)
			if err == nil && (s != vm.State{Word: "running"}) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		}, ""},
	} {
		answers[c.request] = c.answer
		err := c.do()
		if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: %v", c.request, err)
		}
		if err != nil && fault.ClassOf(err) != fault.Device {
			t.Errorf("%s: class %v", c.request, fault.ClassOf(err))
		}
		if got := <-asked; got != c.request {
			t.Errorf("asked %s, want %s", got, c.request)
		}
	}
	if err := d.GrowDisk(ctx, dir, "other", 1); err == nil || !strings.Contains(err.Error(), `no disk with the serial "other"`) {
		t.Errorf("an unknown disk: %v", err)
	}
	if err := d.Quit(ctx, t.TempDir()); fault.ClassOf(err) != fault.Device || errors.Is(err, errNoAnswer) {
		t.Errorf("no machine: %v", err)
	}
}

// Where the socket's words are not understood, on one side or the other, the
// program itself is asked.
func TestControlFallBack(t *testing.T) {
	for name, answer := range map[string]string{"no answer": "", "garbage": "{", "words of a later one": `{"Ok":1,"more":2}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := controlled(t, func(string) string { return answer })
			program := script(t, `echo "$@" >> asked
case $1 in balloon_stats) [ -e hangs ] && exit 1; echo '{"BalloonStats": {"stats": {}, "balloon_actual": 1048576}}' ;; suspend) exit 1 ;; esac
`)
			if err := writeRecord(dir, record{MemoryMiB: 512, Disks: []string{"root", "data"}, Program: program}); err != nil {
				t.Fatal(err)
			}
			d := New(Options{Program: "/nothing"})
			if n, err := d.Memory(t.Context(), dir); err != nil || n != 511<<20 {
				t.Errorf("memory: %d, %v", n, err)
			}
			err := errors.Join(d.Quit(t.Context(), dir), d.GrowDisk(t.Context(), dir, "data", 7), d.Balloon(t.Context(), dir, 512<<20))
			if err != nil {
				t.Error(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "asked"))
			want := "balloon_stats control.sock\nstop control.sock\ndisk resize 1 7 control.sock\nballoon 0 control.sock\n"
			if err != nil || string(got) != want {
				t.Errorf("asked %q, %v", got, err)
			}
			if s, err := d.State(t.Context(), dir); err != nil || s.Word != "running" {
				t.Errorf("state: %+v, %v", s, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "hangs"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := d.State(t.Context(), dir); !errors.Is(err, errNoAnswer) {
				t.Errorf("the state of one that hangs: %v", err)
			}
		})
	}
}

func TestControlDeadline(t *testing.T) {
	dir, _ := controlled(t, func(string) string { return "" })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := New(Options{Program: "/nothing"}).Quit(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{`"Ok"`, `{"Err":95}`, `{"ErrString":"x"}`, `{"BalloonStats":{"stats":{},"balloon_actual":1}}`, `{"A":1,"B":2}`, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r response
		if json.Unmarshal(b, &r) == nil && r.Ok && r.err() != nil {
			t.Errorf("%q is both well and not: %+v", b, r)
		}
	})
}

func TestProbe(t *testing.T) {
	const text = `echo asked >> "$0.asked"
case $1 in version) echo crosvm 0.1.0-x ;; *) printf '  -b, --block        disks\n  --no-usb\n  --cpus            n\n' ;; esac
`
	program := script(t, text)
	d := New(Options{Program: program, Cache: t.TempDir()})
	asked := func() int {
		b, err := os.ReadFile(program + ".asked")
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("\n"))
	}
	for range 2 {
		p, err := d.probe(t.Context())
		if err != nil || fmt.Sprint(p.Options) != "[block cpus no-usb]" || p.Version != "0.1.0-x" {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	if n := asked(); n != 2 {
		t.Errorf("asked %d times, want twice: for help and version", n)
	}
	// A build with other content is asked anew, and so is one that was forgotten.
	if err := os.WriteFile(program, []byte("#!/bin/sh\n# an update\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := d.probe(t.Context()); err != nil || asked() != 4 {
		t.Errorf("after an update: asked %d times, %v", asked(), err)
	}
	if err := d.forget(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.probe(t.Context()); err != nil || asked() != 6 {
		t.Errorf("after forgetting: asked %d times, %v", asked(), err)
	}
	for name, text := range map[string]string{"no options": "echo hello\n", "fails": "echo oops >&2; exit 1\n"} {
		d := New(Options{Program: script(t, text), Cache: t.TempDir()})
		if _, err := d.probe(t.Context()); fault.ClassOf(err) != fault.Device {
			t.Errorf("%s: %v", name, err)
		}
	}
	d = New(Options{Program: "/nothing", Cache: t.TempDir()})
	if _, err := d.probe(t.Context()); fault.ClassOf(err) != fault.Environment || fault.HintOf(err) == "" {
		t.Errorf("no program: %v", err)
	}
}

// A disk that crosvm would not take for a raw one keeps a machine from starting.
func TestHeads(t *testing.T) {
	disk := func(head string) *os.File {
		f, err := os.Create(filepath.Join(t.TempDir(), "data.img"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if _, err := f.WriteString(head); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for head, refused := range map[string]bool{
		"": false, strings.Repeat("\x00", 8192): false, "composite_disk\x1d…": true, "QFI\xfb\x00": true, "\x3a\xff\x26\xed": true, "\x28\xb5\x2f\xfd": true,
		" QFI\xfb": false,
	} {
		m := vm.Machine{Disks: []vm.Disk{{Image: disk("QFI\xfb"), ReadOnly: true}, {Image: disk(head)}}}
		err := CheckHeads(m)
		if (err != nil) != refused {
			t.Errorf("%.20q: %v", head, err)
		}
		if refused && (fault.ClassOf(err) != fault.Device || fault.HintOf(err) == "") {
			t.Errorf("%.20q: %v, hint %q", head, err, fault.HintOf(err))
		}
	}
}

// ended runs a shell that ends so.
func ended(t *testing.T, how string) *os.ProcessState {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", how)
	_ = cmd.Run() // the state says all
	return cmd.ProcessState
}

func TestCPULadder(t *testing.T) {
	const build, kernel = "build", "sha256:k"
	reset, crashed, failed, killed := ended(t, "exit 32"), ended(t, "exit 33"), ended(t, "exit 1"), ended(t, "kill -9 $$")
	r := record{Build: build, Kernel: kernel, CPUs: 8}
	for _, c := range []struct {
		what string
		edit func(*record)
		end  *os.ProcessState
		want int
	}{
		{"not known how", func(*record) {}, nil, 0},
		{"killed", func(*record) {}, killed, 0},
		{"crosvm failed", func(*record) {}, failed, 0},
		{"reset with 8", func(*record) {}, reset, 2},
		{"reset with 2", func(r *record) { r.CPUs, r.MaxCPUs = 2, 2 }, reset, 1},
		{"crashed with 1: it is not that", func(r *record) { r.CPUs, r.MaxCPUs = 1, 1 }, crashed, 0},
		{"came up with 2, reset later", func(r *record) { r.CPUs, r.MaxCPUs, r.Up = 2, 2, true }, reset, 2},
		{"came up with 8, reset later", func(r *record) { r.Up = true }, reset, 0},
		{"another crosvm", func(r *record) { r.Build, r.MaxCPUs, r.Up = "other", 2, true }, nil, 0},
		{"another kernel, never up", func(r *record) { r.Kernel, r.MaxCPUs = "other", 2 }, nil, 0},
		{"another kernel, was up", func(r *record) { r.Kernel, r.MaxCPUs, r.Up = "other", 2, true }, nil, 2},
	} {
		now := r
		c.edit(&now)
		if got := now.nextCPUs(build, kernel, c.end); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
}

func TestExitText(t *testing.T) {
	for how, want := range map[string]string{"exit 0": "powered off", "exit 1": "crosvm itself failed", "exit 32": "reset", "exit 33": "crashed",
		"exit 34": "kernel panicked", "exit 35": "arguments", "exit 36": "stood still", "exit 7": "none of crosvm's", "kill -9 $$": "signal 9"} {
		if got := exitText(ended(t, how)); !strings.Contains(got, want) {
			t.Errorf("%s: %s", how, got)
		}
	}
}

// TestStart starts a crosvm that goes wrong in each of its ways.
func TestStart(t *testing.T) {
	const help = `case "$*" in *--help*) cat ` + "HELP" + `; exit 0 ;; version) exit 1 ;; esac
`
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		end   string
		class fault.Class
		says  string
	}{
		"bad arguments": {`echo "arg parsing failed: Unrecognized argument: --block" >&2; exit 35`, fault.Device, "Unrecognized argument"},
		"locked":        {`echo "failed to lock file: Resource temporarily unavailable" >&2; exit 1`, fault.Environment, "lock file"},
		"memory":        {`echo "mmap: Cannot allocate memory (os error 12)" >&2; exit 1`, fault.Environment, "os error 12"},
		"no kvm":        {`echo "failed to open /dev/kvm: Permission denied" >&2; exit 1`, fault.Environment, "/dev/kvm"},
		"silence":       {`exit 33`, fault.Device, "printed nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			program := script(t, strings.ReplaceAll(help, "HELP", filepath.Join(wd, "testdata/a16.help"))+c.end+"\n")
			d := New(Options{Program: program, Cache: t.TempDir(), Property: func(context.Context, string) string { return "" }})
			m := openMachine(t)
			p, err := d.Prepare(t.Context(), m, func(s string) { t.Error(s) })
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.Start(t.Context(), m, p)
			if fault.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.says) || fault.HintOf(err) == "" {
				t.Errorf("class %v, hint %q: %v", fault.ClassOf(err), fault.HintOf(err), err)
			}
			if _, err := os.Stat(d.cacheFile()); (err != nil) != (name == "bad arguments") {
				t.Errorf("what was found out of it: %v", err)
			}
		})
	}
	// A guest that is reset before crosvm answers is tried with two CPUs, then one.
	program := script(t, strings.ReplaceAll(help, "HELP", filepath.Join(wd, "testdata/a16.help"))+
		`while [ "$1" != --cpus ]; do shift; done; echo "$2" >> cpus; exit 32
`)
	d := New(Options{Program: program, Cache: t.TempDir(), Property: func(context.Context, string) string { return "" }})
	m := openMachine(t)
	p, err := d.Prepare(t.Context(), m, func(s string) { t.Error(s) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context(), m, p); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "exit code 32") {
		t.Errorf("reset with any number of CPUs: %v", err)
	}
	if cpus, err := os.ReadFile(filepath.Join(m.Dir, "cpus")); err != nil || string(cpus) != "4\n2\n1\n" {
		t.Errorf("tried with %q CPUs, %v", cpus, err)
	}
	// A number that is taken is no reason to give up: each try has another.
	program = script(t, strings.ReplaceAll(help, "HELP", filepath.Join(wd, "testdata/a16.help"))+
		`for a; do case $a in cid=*) echo "$a" >> cids ;; esac; done
echo "failed to set CID for guest: Address in use (os error 98)" >&2; exit 1
`)
	d = New(Options{Program: program, Cache: t.TempDir(), Property: func(context.Context, string) string { return "" }})
	m = openMachine(t)
	p, err = d.Prepare(t.Context(), m, func(s string) { t.Error(s) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context(), m, p); fault.ClassOf(err) != fault.Environment {
		t.Errorf("all numbers taken: %v", err)
	}
	cids, err := os.ReadFile(filepath.Join(m.Dir, "cids"))
	if n := len(strings.Fields(string(cids))); err != nil || n != maxCIDs {
		t.Errorf("%d numbers were tried, %v", n, err)
	}
}

func openMachine(t *testing.T) vm.Machine {
	t.Helper()
	m := testMachine(t)
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	m.Kernel, m.Initramfs, m.Disks[0].Image, m.Disks[1].Image = open("kernel"), open("initramfs"), open("root.img"), open("data.img")
	return m
}

func TestPrepare(t *testing.T) {
	help, err := os.ReadFile("testdata/a16.help")
	if err != nil {
		t.Fatal(err)
	}
	program := script(t, "cat <<'END'\n"+string(help)+"END\n")
	properties := map[string]string{}
	d := New(Options{Program: program, Cache: t.TempDir(), Property: func(_ context.Context, name string) string { return properties[name] }})
	m := testMachine(t)
	prepare := func() (plan, string) {
		t.Helper()
		said := ""
		p, err := d.Prepare(t.Context(), m, func(s string) { said += s })
		if err != nil {
			t.Fatal(err)
		}
		return p.(plan), said
	}
	if p, said := prepare(); said != "" || p.CPUs != 4 || p.Protected || p.reporting {
		t.Errorf("%+v, said %q", p, said)
	}
	properties["ro.boot.hypervisor.vm.supported"], properties["ro.boot.hypervisor.protected_vm.supported"] = "0", "1"
	properties["hypervisor.memory_reclaim.supported"] = "true"
	if p, said := prepare(); !p.Protected || !p.reporting || !strings.Contains(said, "protected machines only") {
		t.Errorf("a device with protected machines only: %+v, said %q", p, said)
	}
	if err := writeRecord(m.Dir, record{Build: mustBuild(t, program), Up: true, CPUs: 2, MaxCPUs: 2}); err != nil {
		t.Fatal(err)
	}
	if p, said := prepare(); p.CPUs != 2 || !strings.Contains(said, "more than 2 of 4 CPUs") {
		t.Errorf("%d CPUs, said %q", p.CPUs, said)
	}
	// A reset counts against the CPUs only where the guest's init had not begun.
	if err := writeRecord(m.Dir, record{Build: mustBuild(t, program), CPUs: 4}); err != nil {
		t.Fatal(err)
	}
	d.ends[m.Dir] = &ending{done: make(chan struct{}), state: ended(t, "exit 32")}
	close(d.ends[m.Dir].done)
	for console, want := range map[string]int{"[0.0] Linux version": 2, "sovereign-init: [1.0] root: no such disk\n": 4} {
		if err := os.WriteFile(filepath.Join(m.Dir, vm.ConsoleFile), []byte(console), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, _ := prepare(); p.CPUs != want {
			t.Errorf("reset after %q: %d CPUs, want %d", console, p.CPUs, want)
		}
	}
	for _, edit := range []func(*vm.Machine){func(m *vm.Machine) { m.Accel = "tcg" }, func(m *vm.Machine) { m.Bounce = true }} {
		other := m
		edit(&other)
		if _, err := d.Prepare(t.Context(), other, func(string) {}); fault.ClassOf(err) != fault.Device {
			t.Errorf("%+v: %v", other, err)
		}
	}
	for device, want := range map[string]string{"/dev/kvm": "kvm ", "/dev/gunyah": "gunyah gunyah", "/dev/gzvm": "geniezone geniezone", "": "kvm "} {
		accel, option := hypervisor(func(path string) bool { return path == device })
		if got := accel + " " + option; got != want {
			t.Errorf("%s: %q", device, got)
		}
	}
}

func mustBuild(t *testing.T, program string) string {
	t.Helper()
	build, err := buildOf(program)
	if err != nil {
		t.Fatal(err)
	}
	return build
}

// TestDial has a guest with the key, one without, and nobody.
func TestDial(t *testing.T) {
	dir, sockets := t.TempDir(), t.TempDir()
	key, err := MakeKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	right, err := machinekey.ReadDisk(key)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := key.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	if err := writeRecord(dir, record{CID: 70000}); err != nil {
		t.Fatal(err)
	}
	d := New(Options{Dial: DialDirectory(sockets)})
	if _, err := d.DialNetwork(t.Context(), dir); fault.ClassOf(err) != fault.Device {
		t.Errorf("nobody: %v", err)
	}
	guest := func(k machinekey.Key) func() {
		l, err := net.Listen("unix", filepath.Join(sockets, "70000.sock"))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				var port uint32
				if _, err := fmt.Fscanf(c, "CONNECT %d\n", &port); err != nil {
					t.Error(err)
				}
				fmt.Fprintf(c, "OK 1\n")
				if k.Guest(context.Background(), c, port) == nil {
					fmt.Fprintf(c, "port %d", port)
					c.Close()
				}
			}
		}()
		return func() { l.Close() }
	}
	end := guest(machinekey.New())
	if _, err := d.DialAgent(t.Context(), dir); !errors.Is(err, machinekey.ErrStranger) {
		t.Errorf("a stranger: %v", err)
	}
	end()
	defer guest(right)()
	for port, dial := range map[uint32]func(context.Context, string) (net.Conn, error){agent.VsockPort: d.DialAgent, agent.NetworkPort: d.DialNetwork} {
		conn, err := dial(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != fmt.Sprintf("port %d", port) {
			t.Errorf("%q, %v", got, err)
		}
		conn.Close()
	}
	if rec, err := readRecord(dir); err != nil || !rec.Up {
		t.Errorf("the guest has come up, and the record says %+v, %v", rec, err)
	}
}

func TestCIDs(t *testing.T) {
	for range 1000 {
		if c := chooseCID(); c < minCID || c >= maxCID {
			t.Fatalf("%d", c)
		}
	}
}
