package initd

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// shell runs a line in the guest as root and returns what it printed.
func (v *vm) shell(c *agent.Client, line string) string {
	v.t.Helper()
	code, out := v.exec(c, agent.ExecRequest{Argv: []string{"sh", "-c", line}})
	if code != 0 {
		v.t.Errorf("%s: exit status %d: %s", line, code, out)
	}
	return out
}

// fields are the values of /proc/PID/status by their names.
func fields(status string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(status) {
		k, rest, _ := strings.Cut(line, ":")
		m[k] = strings.Join(strings.Fields(rest), " ")
	}
	return m
}

// fenced checks what services, and programs run by hand, can do to the guest.
func (v *vm) fenced(c *agent.Client) {
	t := v.t
	t.Helper()
	const none, net = "0000000000000000", "0000000000003000"
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct{ capabilities, pids string }{"beat": {none, "512"}, "eater": {net, "64"}} {
		service, _ := s.Service(name)
		got := fields(v.shell(c, fmt.Sprintf("cat /proc/%d/status", service.PID)))
		for k, v := range map[string]string{"Uid": "1000 1000 1000 1000", "Gid": "1000 1000 1000 1000", "NoNewPrivs": "1",
			"CapInh": want.capabilities, "CapPrm": want.capabilities, "CapEff": want.capabilities, "CapBnd": want.capabilities, "CapAmb": want.capabilities} {
			if got[k] != v {
				t.Errorf("%s: %s is %q, want %q", name, k, got[k], v)
			}
		}
		if got := strings.TrimSpace(v.shell(c, "cat /sys/fs/cgroup/"+name+"/pids.max")); got != want.pids {
			t.Errorf("%s: at most %s processes, want %s", name, got, want.pids)
		}
	}
	if _, out := v.exec(c, agent.ExecRequest{Argv: []string{"cat", "/proc/self/status"}, User: "app"}); fields(out)["CapBnd"] != none || fields(out)["NoNewPrivs"] != "1" {
		t.Errorf("exec as a user:\n%s", out)
	}
	if out := v.shell(c, "cat /proc/self/status"); fields(out)["CapEff"] != fields(v.shell(c, "cat /proc/1/status"))["CapEff"] || fields(out)["NoNewPrivs"] != "1" {
		t.Errorf("exec as root:\n%s", out)
	}
	if out := v.shell(c, "ls -ln /dev/net/tun"); !strings.HasPrefix(out, "crw-rw----") || fmt.Sprint(strings.Fields(out)[2:4]) != "[0 1000]" {
		t.Errorf("/dev/net/tun: %s", out)
	}
	for _, s := range sysctls() {
		// A kernel without one lacks what it limits; these have all of them.
		out := v.shell(c, "cat /proc/sys/"+s.name)
		for line := range strings.Lines(out) {
			if strings.TrimSpace(line) != s.value {
				t.Errorf("%s is %s, want %s", s.name, out, s.value)
			}
		}
	}
	mounts := map[string][]string{}
	for line := range strings.Lines(v.shell(c, "cat /proc/mounts")) {
		f := strings.Fields(line)
		mounts[f[1]] = strings.Split(f[3], ",")
	}
	for target, want := range map[string]string{"/": "ro nosuid nodev", "/data": "nosuid nodev noexec", "/run": "nosuid nodev noexec", "/tmp": "nosuid nodev noexec",
		"/dev": "nosuid noexec", "/dev/shm": "nosuid nodev noexec", "/dev/pts": "nosuid noexec", "/proc": "nosuid nodev noexec", "/sys": "nosuid nodev noexec",
		"/sys/fs/cgroup": "nosuid nodev noexec"} {
		has := " " + strings.Join(mounts[target], " ") + " "
		for option := range strings.FieldsSeq(want) {
			if !strings.Contains(has, " "+option+" ") {
				t.Errorf("%s is not mounted %s: %q", target, option, mounts[target])
			}
		}
	}
}

// monitor speaks QEMU's machine protocol.
type monitor struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Scanner
}

func (v *vm) monitor() *monitor {
	v.t.Helper()
	conn, err := net.Dial("unix", v.qmp())
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { conn.Close() })
	m := &monitor{v.t, conn, bufio.NewScanner(conn)}
	m.do("qmp_capabilities")
	return m
}

// do runs a command and waits for its answer.
func (m *monitor) do(command string) {
	m.t.Helper()
	if _, err := fmt.Fprintf(m.conn, "{\"execute\": %q}\n", command); err != nil {
		m.t.Fatal(err)
	}
	for m.r.Scan() {
		var answer struct {
			Return *json.RawMessage
			Error  *json.RawMessage
		}
		if err := json.Unmarshal(m.r.Bytes(), &answer); err != nil || answer.Error != nil {
			m.t.Fatalf("%s: %s, %v", command, m.r.Text(), err)
		}
		if answer.Return != nil {
			return
		}
	}
	m.t.Fatalf("%s: no answer: %v", command, m.r.Err())
}

// behind is how far the guest's clock is behind the host's. An exec takes its
// time, on a busy host seconds of it, which is not the clock's: so the guest's
// time is between two of the host's.
func (v *vm) behind(c *agent.Client) time.Duration {
	v.t.Helper()
	before := time.Now()
	n, err := strconv.ParseInt(strings.TrimSpace(v.shell(c, "date +%s")), 10, 64)
	if err != nil {
		v.t.Fatal(err)
	}
	return before.Sub(time.Unix(n+1, 0)) // at most a second ahead of the truth
}

// paused stops the machine for a while, as a host does that is full or asleep.
func (v *vm) paused(c *agent.Client) {
	t := v.t
	t.Helper()
	const pause, near = 8 * time.Second, 3 * time.Second
	if d := v.behind(c); d > near {
		t.Fatalf("the clock is %v behind before the pause", d)
	}
	m := v.monitor()
	m.do("stop")
	resume := time.NewTimer(pause) // this is what the guest has to make up for
	<-resume.C
	m.do("cont")
	v.until(c, "a clock that is right again", func(*agent.Status) bool { return v.behind(c) < near })
	if log := v.log(c, "init"); !strings.Contains(log, "it was paused") {
		t.Errorf("the clock was not set by the machine's:\n%s", log)
	}
}
