package live

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// fakeMachine is a guest with PostgreSQL and tailscaled, which answers as the
// real one does.
type fakeMachine struct {
	answers map[string]string // by the words of the command line, or a part of it
	// heals says whether what was killed is started again, recovers whether
	// PostgreSQL's log tells of it, keeps whether its tables are there then, and
	// holds whether a freeze holds writes.
	heals, recovers, keeps, holds bool

	mu     sync.Mutex
	pids   map[string]int
	tables map[string]bool
	log    []string
	thawed chan struct{} // closed while nothing is frozen
	asked  []string
}

const tailscaleStatus = `{"BackendState": "NeedsLogin", "TUN": true}`

func newFake() *fakeMachine {
	thawed := make(chan struct{})
	close(thawed)
	return &fakeMachine{
		heals: true, recovers: true, keeps: true, holds: true, thawed: thawed,
		pids: map[string]int{"postgresql": 100, "tailscale": 200}, tables: map[string]bool{}, log: []string{"ready to accept connections"},
		answers: map[string]string{
			"cat /proc/config.gz":       packed("CONFIG_PCI=y\nCONFIG_VIRTIO_PCI=y\n"),
			"audit names":               "120 755 /usr/bin/a\n10 755 /usr/bin/script\n31900000 644 /usr/share/icu/76.1/icudt76l.dat\n",
			"audit heads":               string(program(2<<20)) + "#!/bin/sh\n",
			"/sys/bus/virtio":           "virtio0 0x0001 virtio_net- pci 0" + strings.Repeat("0", 63) + "\nvirtio1 0x0002 - mmio " + strings.Repeat("01", 32) + "\n",
			"ls /dev":                   "null\nvsock\n",
			"cat /proc/net/protocols":   "protocol  size\nAF_VSOCK 1\n",
			"cat /proc/filesystems":     "nodev\tproc\n\text4\n",
			"dmesg":                     "[    0.000000] Linux version 6.12\n[    0.020123] random: crng init done\n",
			"io_tlb_used_hiwater":       "5\n",
			"rng_current":               "virtio_rng.0\n",
			"/dev/random":               strings.Repeat("a", 16) + strings.Repeat("b", 16),
			"/dev/hwrng":                strings.Repeat("a", 16) + strings.Repeat("b", 16),
			"cat /proc/100/cmdline":     "/usr/bin/postgres\x00-D\x00/data/postgresql/17\x00",
			"cat /proc/200/cmdline":     "/usr/sbin/tailscaled\x00--tun=tailscale0,userspace-networking\x00",
			"cat /proc/net/tcp":         "  sl  local_address rem_address   st\n   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000    70        0 1\n   1: 0100007F:1538 0100007F:9999 01 00000000:00000000 00:00000000 00000000    70        0 1\n",
			"unprivileged_port_start":   "1024\n",
			"/sys/block":                "3 50\n",
			"tailscale --socket=/run/s": tailscaleStatus,
			"sv-SE":                     "t\n",
			"json_build_object": `{"version" : "17.12", "settings" : {"fsync": {"value": "on", "source": "configuration file", "file": "/etc/c"}},
				"databases" : [{"name" : "postgres", "provider" : "i", "locale" : "en-US", "version" : "153.128", "actual" : "153.128"}], "icu_collations" : 871, "sorted" : true}`,
		},
	}
}

func packed(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

// program is the head of an ELF file of 120 bytes with a stack of so many.
func program(stack uint64) []byte {
	b := make([]byte, 120)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], 2)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[64:], 0x6474e551)
	le.PutUint64(b[64+40:], stack)
	return b
}

var guestSpec = spec.Spec{Data: spec.Data{Mount: "/data"}, Services: []spec.Service{
	{Name: "postgresql", User: "postgres", Command: []string{"/usr/bin/postgres"}},
	{Name: "tailscale", User: "tailscale", Command: []string{"/usr/sbin/tailscaled", "--socket=/run/s", "--tun=tailscale0,userspace-networking"}},
}}

func (f *fakeMachine) Exec(ctx context.Context, r agent.ExecRequest, std agent.ExecIO) (int, error) {
	line := strings.Join(r.Argv, " ")
	f.mu.Lock()
	f.asked = append(f.asked, line)
	thawed := f.thawed
	f.mu.Unlock()
	say := func(text string) (int, error) {
		_, err := io.WriteString(std.Stdout, text)
		return 0, err
	}
	switch {
	case r.Argv[0] == "kill":
		return 0, f.kill(r.Argv[2])
	case strings.Contains(line, "echo begins"):
		if _, err := say("begins\n"); err != nil {
			return 0, err
		}
		select {
		case <-thawed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		return 0, nil
	case line == "cat "+spec.Path:
		text, err := json.Marshal(guestSpec)
		if err != nil {
			return 0, err
		}
		return say(string(text))
	case strings.Contains(line, "tailscaled --statedir"):
		return say(f.answers["second"])
	case r.Argv[0] == "psql" && strings.Contains(line, "sovereign_audit_"):
		return f.table(line, say)
	}
	for part, answer := range f.answers {
		if line == part || strings.Contains(line, part) && (strings.Contains(part, "/") || strings.HasPrefix(part, "audit ") || r.Argv[0] == "psql" || !strings.Contains(part, " ")) {
			return say(answer)
		}
	}
	fmt.Fprintf(std.Stderr, "%s: not found\n", r.Argv[0])
	return 127, nil
}

// table makes, counts and drops the trial's table.
func (f *fakeMachine) table(line string, say func(string) (int, error)) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := line[strings.Index(line, "sovereign_audit_"):]
	name, _, _ = strings.Cut(name, " ")
	switch {
	case strings.Contains(line, "CREATE"):
		f.tables[name] = true
	case strings.Contains(line, "DROP"):
		delete(f.tables, name)
	case f.keeps && f.tables[name]:
		return say("1\n")
	default:
		return say("0\n")
	}
	return 0, nil
}

func (f *fakeMachine) kill(pid string) error {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, p := range f.pids {
		if p != n {
			continue
		}
		if f.pids[name] = 0; f.heals {
			f.pids[name] = n + 1
		}
		if name == "postgresql" && f.recovers {
			f.log = append(f.log, "LOG:  database system was not properly shut down; automatic recovery in progress", "ready to accept connections again")
		}
	}
	return nil
}

func (f *fakeMachine) Status(context.Context) (runtime.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := &agent.Status{}
	for _, name := range []string{"postgresql", "tailscale"} {
		g.Services = append(g.Services, agent.Service{Name: name, PID: f.pids[name], Healthy: f.pids[name] != 0})
	}
	return runtime.Status{Name: "sql", State: runtime.Running, PID: 17, Guest: g}, nil
}

// Watch tells the status once, and then nothing more.
func (f *fakeMachine) Watch(ctx context.Context, each func(runtime.Event) error) error {
	s, err := f.Status(ctx)
	if err != nil {
		return err
	}
	if err := each(runtime.Event{Status: &s}); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (f *fakeMachine) Logs(_ context.Context, services []string, _ bool, line func(runtime.LogLine) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.log {
		if err := line(runtime.LogLine{Service: services[0], Text: l}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeMachine) Freeze(context.Context, time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holds {
		f.thawed = make(chan struct{})
	}
	return nil
}

func (f *fakeMachine) Thaw(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holds {
		close(f.thawed)
		f.holds = false
	}
	return nil
}

func (f *fakeMachine) look(t *testing.T) *look {
	t.Helper()
	s, err := f.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &look{machine: f, status: s, facts: &audit.Facts{Manifest: &bundle.Manifest{Root: bundle.Root{Serial: "root"}}, Machine: &audit.Machine{}}}
}

func TestEverything(t *testing.T) {
	f := newFake()
	l := f.look(t)
	l.everything(t.Context())
	m, i := l.facts.Machine, l.facts.Image
	if !l.facts.Kernel.Seen || l.facts.Kernel.Value.Value("VIRTIO_PCI") != "y" {
		t.Errorf("kernel: %+v", l.facts.Kernel)
	}
	if p := i.Programs; !p.Seen || len(p.Value) != 1 || p.Value[0].Path != "/usr/bin/a" || p.Value[0].Stack != 2<<20 {
		t.Errorf("programs: %+v", p)
	}
	if d := i.ICUData; !d.Seen || len(d.Value) != 1 || d.Value[0].Size != 31900000 {
		t.Errorf("ICU: %+v", d)
	}
	if d := m.Devices; !d.Seen || len(d.Value) != 2 || d.Value[0].Driver != "virtio_net" || !d.Value[0].PCI || d.Value[1].Driver != "" || d.Value[1].PCI {
		t.Errorf("devices: %+v", d)
	}
	if k := m.KernelLog; !k.Seen || len(k.Value) != 2 || k.Value[1].At != 20123*time.Microsecond {
		t.Errorf("log: %+v", k)
	}
	if m.PoolPeak.Value != 10240 || m.UnprivilegedFrom.Value != 1024 || len(m.Nodes.Value) != 2 || len(m.Protocols.Value) != 2 || len(m.FileSystems.Value) != 3 {
		t.Errorf("%+v %+v %+v %+v %+v", m.PoolPeak, m.UnprivilegedFrom, m.Nodes, m.Protocols, m.FileSystems)
	}
	if e := m.Entropy; e.Value != (audit.Entropy{Source: "virtio_rng.0", Ready: true, Fresh: true}) {
		t.Errorf("entropy: %+v", e)
	}
	if s := m.Services; !s.Seen || len(s.Value) != 2 || len(s.Value[1].Command) != 2 {
		t.Errorf("services: %+v", s)
	}
	if s := m.Listeners; !s.Seen || len(s.Value) != 1 || s.Value[0] != (audit.Listener{Port: 5432, UID: 70}) {
		t.Errorf("listeners: %+v", s)
	}
	if d := m.Database; !d.Seen || !d.Value.Sorted || d.Value.ICUCollations != 871 || !d.Value.Swedish.Value || d.Value.Settings["fsync"].Value != "on" || len(d.Value.Databases) != 1 {
		t.Errorf("database: %+v", d)
	}
	if d := m.Tailnet; !d.Seen || d.Value.State != "NeedsLogin" || !d.Value.Kernel {
		t.Errorf("tailnet: %+v", d)
	}
	if d := m.Disk; !d.Seen || len(d.Value) != len(sizes) || d.Value[0].Took != 500*time.Millisecond || d.Value[0].Bytes != 3*4194304 {
		t.Errorf("disk: %+v", d)
	}
}

// A probe that fails leaves a fact that is not seen, with the reason, and the
// others see what they see.
func TestProbesFail(t *testing.T) {
	f := newFake()
	delete(f.answers, "dmesg")
	delete(f.answers, "sv-SE")
	f.answers["/sys/bus/virtio"] = "what\n"
	f.answers["audit heads"] = "short"
	f.answers["/dev/hwrng"] = strings.Repeat("\x00", 32)
	l := f.look(t)
	l.everything(t.Context())
	m := l.facts.Machine
	if k := m.KernelLog; k.Seen || !strings.Contains(k.Why, "dmesg: not found") {
		t.Errorf("%+v", k)
	}
	if s := m.Database.Value.Swedish; !m.Database.Seen || s.Seen || s.Why == "" {
		t.Errorf("%+v", m.Database)
	}
	if m.Devices.Seen || l.facts.Image.Programs.Seen || m.Entropy.Value.Fresh || !m.Listeners.Seen {
		t.Errorf("%+v %+v %+v", m.Devices, l.facts.Image.Programs, m.Entropy)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("over"))
	if _, err := l.run(ctx, "dmesg"); err == nil {
		t.Error("a program that failed is an error")
	}
}

func TestOutputLimit(t *testing.T) {
	f := newFake()
	f.answers["dmesg"] = strings.Repeat("x", maxOutput+1)
	if k := f.look(t).kernelLog(t.Context()); k.Seen || !strings.Contains(k.Why, "too long") {
		t.Errorf("%v %s", k.Seen, k.Why)
	}
}

type fakeDaemon struct {
	pids []int
	old  bool
}

func (d *fakeDaemon) Processes(context.Context) (runtime.HostProcesses, error) {
	if d.old {
		return runtime.HostProcesses{}, errors.New("404 page not found")
	}
	return runtime.HostProcesses{System: "Linux 6", Android: true, Processes: []runtime.HostProcess{
		{PID: 7, OOMScoreAdj: -1000, Cgroup: "/"}, {Machine: "sql", PID: 8}, {Machine: "other", PID: 9},
	}}, nil
}

func (d *fakeDaemon) Info(context.Context) (runtime.HostInfo, error) {
	pid := d.pids[0]
	if len(d.pids) > 1 {
		d.pids = d.pids[1:]
	}
	return runtime.HostInfo{PID: pid}, nil
}

func (f *fakeMachine) trials(t *testing.T) *trials {
	t.Helper()
	l := f.look(t)
	l.spec(t.Context())
	return &trials{look: l, host: &fakeDaemon{pids: []int{7, 7, 8}}, here: true, kill: func(int) error { return nil }, report: func(string) {}}
}

func TestTrials(t *testing.T) {
	f := newFake()
	f.answers["second"] = `{"TUN": false}`
	tr := f.trials(t)
	if err := tr.all(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := tr.facts.Machine
	if r := m.Freeze; r.Err != "" || !r.Held || !r.After || r.Took < heldFor {
		t.Errorf("freeze: %+v", r)
	}
	if r := m.Fallback; r.Err != "" || r.Said == "" {
		t.Errorf("fallback: %+v", r)
	}
	if r := m.Crash; r.Err != "" || !r.Kept || !strings.Contains(r.Recovered, "automatic recovery") || r.Old != 100 || r.New != 101 {
		t.Errorf("crash: %+v", r)
	}
	if len(m.Heals) != 2 || !m.Heals[0].Healthy || m.Heals[1].New != 201 {
		t.Errorf("heals: %+v", m.Heals)
	}
	if r := m.Daemon; !r.Tried || r.Err != "" || r.New != 8 || !r.Kept {
		t.Errorf("daemon: %+v", r)
	}
	if len(f.tables) != 0 {
		t.Errorf("left in the database: %v", f.tables)
	}
}

func TestTrialsFail(t *testing.T) {
	f := newFake()
	f.answers["second"] = `{"TUN": true}`
	f.recovers, f.keeps, f.holds = false, false, false
	tr := f.trials(t)
	tr.here = false
	if err := tr.all(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := tr.facts.Machine
	if r := m.Freeze; r.Held || r.Err != "" {
		t.Errorf("freeze: %+v", r)
	}
	if r := m.Fallback; !strings.Contains(r.Err, "no right") {
		t.Errorf("fallback: %+v", r)
	}
	if r := m.Crash; r.Kept || r.Recovered != "" {
		t.Errorf("crash: %+v", r)
	}
	if r := m.Daemon; r.Tried || r.Err == "" {
		t.Errorf("daemon: %+v", r)
	}
}

// A service that is not started again is told of, and not waited for without end.
func TestNotHealed(t *testing.T) {
	f := newFake()
	f.heals = false
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("time is over"))
	defer cancel()
	r := f.trials(t).heal(ctx, "tailscale")
	if r.New != 0 || r.Healthy || !strings.Contains(r.Err, "time is over") {
		t.Errorf("%+v", r)
	}
}

func TestHistory(t *testing.T) {
	s := runtime.Status{Name: "sql", Guest: &agent.Status{}}
	if k := history(&s); k.Seen || k.Why == "" {
		t.Errorf("%+v", k)
	}
	s.Guest.Continuity = &agent.Continuity{Lineage: "a", Epoch: 4, Verdict: "behind", Held: true}
	s.Continuity = &runtime.Witnessed{Continuity: runtime.Continuity{Lineage: "a", Epoch: 7}}
	if k := history(&s); !k.Value.Held || !strings.Contains(k.Value.Why, "older copy") || k.Value.Witness.Epoch != 7 || k.Value.Epoch != 4 {
		t.Errorf("%+v", k)
	}
}

func TestFindRecovery(t *testing.T) {
	lines := []string{"redo starts at 0/1", "last", "hello", " redo starts at 0/2 "}
	if got := findRecovery(lines, "last"); got != "redo starts at 0/2" {
		t.Errorf("%q", got)
	}
	if got := findRecovery(lines[:3], "last"); got != "" {
		t.Errorf("an old recovery counts: %q", got)
	}
}

func TestLookAtHost(t *testing.T) {
	k := lookAtHost(t.Context(), &fakeDaemon{}, "sql")
	if h := k.Value; !k.Seen || !h.Android || len(h.Processes) != 2 ||
		h.Processes[0] != (audit.Process{Role: "sovereignd", PID: 7, OOMScoreAdj: -1000, Cgroup: "/"}) ||
		h.Processes[1] != (audit.Process{Role: "hypervisor", PID: 8, OOMScoreAdj: 0, Cgroup: "no control group"}) {
		t.Errorf("%+v", k)
	}
	if k := lookAtHost(t.Context(), &fakeDaemon{old: true}, "sql"); k.Seen || !strings.Contains(k.Why, "404") {
		t.Errorf("%+v", k)
	}
}

func TestParseTailnet(t *testing.T) {
	got, err := parseTailnet([]byte(`{"BackendState":"Running","TUN":false}`), []byte(`{"TCP":{"5432":{"TCPForward":"127.0.0.1:5432"},"443":{"HTTPS":true}}}`))
	if err != nil || got.State != "Running" || got.Kernel || len(got.Served) != 1 || got.Served[5432] != "127.0.0.1:5432" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseTailnet([]byte("no"), nil); err == nil {
		t.Error("no JSON is an error")
	}
}

// Whatever the guest says, no parser falls over it.
func FuzzParse(f *testing.F) {
	fake := newFake()
	for _, a := range fake.answers {
		f.Add([]byte(a), []byte("x"))
	}
	f.Add([]byte("120 755 /usr/bin/a\n"), program(2<<20))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		files, data, err := parseFiles(a)
		if len(files)+len(data) > maxFiles {
			t.Errorf("%d files", len(files))
		}
		if p, err2 := parsePrograms(files, b); err == nil && err2 == nil && len(p) > 0 && len(b) == 0 {
			t.Errorf("%+v of nothing", p)
		}
		for _, parse := range []func() error{
			func() error { _, err := parseDevices(a); return err },
			func() error { _, err := parseListeners(a); return err },
			func() error { _, _, err := parseTimes(a); return err },
			func() error { _, err := parseTailnet(a, b); return err },
			func() error { _, err := parseConfig(a); return err },
			func() error { _, err := withoutDevice(a); return err },
		} {
			if err := parse(); err != nil && err.Error() == "" {
				t.Error("an error without words")
			}
		}
		parseLog(a)
		lastLine(a)
	})
}
