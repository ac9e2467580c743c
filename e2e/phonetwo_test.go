package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/testphone"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// TestPhoneTwo has two machines side by side on a phone, under crosvm's stand-in:
// one that is killed, or gets a version that does not boot, leaves the other alone;
// and where /data is full they run on, and what needs room says so.
func TestPhoneTwo(t *testing.T) {
	testphone.Need(t)
	dist := os.Getenv("SOVEREIGN_E2E")
	if dist == "" {
		t.Skip("SOVEREIGN_E2E names no bundle")
	}
	p, before := crosvmPhone(t, func(o *testphone.Options) {
		// A file system of its own, which can be filled.
		data := filepath.Join(o.Dir, "data")
		err := os.MkdirAll(data, 0o755)
		if err == nil {
			err = unix.Mount("tmpfs", data, "tmpfs", 0, "mode=0771,size=3g")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(data, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", data, err)
			}
		})
	})
	version := func(name string, change func(*bundle.Manifest)) string {
		return (&machine{bundle: dist}).variant(t, func(b *bundle.Manifest) {
			b.Name, b.VM.Data.Size = name, 512<<20
			change(b)
		})
	}
	same := func(*bundle.Manifest) {}
	begin := time.Now()
	p.ok("up", version("sql", same), "--timeout", "20m", "--device", p.name)
	t.Logf("one is up after %.0f s", time.Since(begin).Seconds())
	ask := func(name, query string) string {
		t.Helper()
		return strings.TrimSpace(p.ok("psql", name, "--device", p.name, "--", "-qtAc", query))
	}
	rows := func(t *testing.T) {
		t.Helper()
		for _, name := range []string{"sql", "other"} {
			if got := ask(name, "select name from t"); got != name {
				t.Errorf("%s has %q", name, got)
			}
		}
	}
	runs := func(t *testing.T, name string) int {
		t.Helper()
		pids := p.pids("run\x00--name\x00" + name + "\x00")
		if len(pids) != 1 {
			t.Fatalf("%s is run by the processes %v", name, pids)
		}
		return pids[0]
	}
	in := func(line string) (string, int) {
		out, _, code := p.call("exec", "sql", "--user", "root", "--device", p.name, "--", "sh", "-c", line)
		return strings.TrimSpace(out), code
	}
	one := runs(t, "sql")

	begin = time.Now()
	p.ok("up", version("other", same), "--timeout", "20m", "--device", p.name)
	t.Logf("the other is up after %.0f s", time.Since(begin).Seconds())
	for _, name := range []string{"sql", "other"} {
		ask(name, "create table t (name text); insert into t values ('"+name+"')")
	}
	t.Run("a network for both", func(t *testing.T) {
		rows(t)
		if out, code := in("ping -c 1 -W 20 other.internal"); code != 0 {
			t.Errorf("exit code %d: %s", code, out)
		}
	})

	t.Run("one is killed", func(t *testing.T) {
		first := runs(t, "other")
		if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitLong(t, "it to be there again", func() bool {
			pids := p.pids("run\x00--name\x00other\x00")
			return len(pids) == 1 && pids[0] != first && p.status().Machines["other"] == "ready"
		})
		rows(t)
		if runs(t, "sql") != one {
			t.Error("the other one was restarted")
		}
	})

	t.Run("a version that does not boot", func(t *testing.T) {
		wrong := strings.Repeat("0123456789abcdef", 4)
		bad := version("other", func(b *bundle.Manifest) {
			b.VM.Cmdline = strings.ReplaceAll(b.VM.Cmdline, b.Root.Hash, wrong)
			b.Root.Hash = wrong
		})
		begin := time.Now()
		out, errs, code := p.call("update", "other", bad, "--json", "--timeout", "20m", "--device", p.name)
		if code != int(fault.Device) || !strings.Contains(out, `"result":"reverted"`) {
			t.Errorf("exit code %d: %s%s", code, out, errs)
		}
		t.Logf("back after %.0f s", time.Since(begin).Seconds())
		rows(t)
		if runs(t, "sql") != one {
			t.Error("the other one was restarted")
		}
	})

	t.Run("data is full", func(t *testing.T) {
		good := version("other", func(b *bundle.Manifest) { b.VM.MemoryMiB += 64 })
		ballast := filepath.Join(p.Data(), "local/tmp/ballast")
		fillUp(t, ballast)
		if got := ask("sql", "create table more as select repeat(md5(n::text), 30) as text from generate_series(1, 20000) as n; checkpoint; select count(*) from more"); got != "20000" {
			t.Errorf("a disk with its room, on a full phone: %q", got)
		}
		out, errs, code := p.call("update", "other", good, "--device", p.name)
		if code != int(fault.Environment) || !strings.Contains(errs, "room") && !strings.Contains(errs, "no space") {
			t.Errorf("an update: exit code %d: %s%s", code, out, errs)
		}
		t.Logf("an update says: %s", strings.TrimSpace(errs))
		// sovereignd comes back, and finds its machines, where it can write nothing.
		for _, pid := range p.pids("--state-dir") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		waitFor(t, "another sovereignd", func() bool { return len(p.pids("--state-dir")) > 0 })
		rows(t)
		if s := p.status(); s.Machines["sql"] != "ready" || s.Machines["other"] != "ready" || runs(t, "sql") != one {
			t.Errorf("%+v", s)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		p.ok("update", "other", good, "--timeout", "20m", "--device", p.name)
		rows(t)
	})

	p.ok("device", "remove", p.name, "--yes")
	waitFor(t, "the end of all", func() bool { return len(p.pids("sovereignd")) == 0 && len(p.pids("crosvm")) == 0 })
	if d := differs(before, p.seen()); d != "" {
		t.Errorf("what is left:\n%s", d)
	}
}

// fillUp leaves nothing of the file system.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	for size := len(b); size > 0; {
		if _, err := f.Write(b[:size]); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestPhoneNetwork has a machine's way out, and the names that it finds, follow the
// phone's: Wi-Fi, mobile, a VPN, and back, without a restart of anything.
func TestPhoneNetwork(t *testing.T) {
	testphone.Need(t)
	dist := os.Getenv("SOVEREIGN_E2E")
	if dist == "" {
		t.Skip("SOVEREIGN_E2E names no bundle")
	}
	p, before := crosvmPhone(t, nil)
	w, err := p.NewWorld()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	site := newSite(t, w)

	begin := time.Now()
	p.ok("up", dist, "--outbound", "--timeout", "20m", "--device", p.name)
	t.Logf("up after %.0f s", time.Since(begin).Seconds())
	one := p.pids("run\x00--name\x00sql\x00")
	in := func(line string) (string, int) {
		out, _, code := p.call("exec", "sql", "--user", "root", "--device", p.name, "--", "sh", "-c", line)
		return strings.TrimSpace(out), code
	}
	attach := func(name string) testphone.Uplink {
		t.Helper()
		u, err := w.Attach(name)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	from := func(what string, u testphone.Uplink) {
		t.Helper()
		out, code := in("wget -T 30 -qO- http://site.example/")
		if want := u.Phone; out != want || code != 0 {
			t.Errorf("%s: the world sees %q (exit code %d), and it is to be %s", what, out, code, want)
		}
		if got := site.lastAsked(); got != u.Phone {
			t.Errorf("%s: the name was asked for from %s", what, got)
		}
	}
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	if out, code := in("wget -T 30 -qO- http://site.example/"); code == 0 {
		t.Errorf("without a network it reaches %s", out)
	}
	wlan := attach("wlan0")
	do(w.Default(wlan))
	from("Wi-Fi", wlan)
	rmnet := attach("rmnet0")
	do(w.Drop(wlan), w.Default(rmnet))
	from("mobile", rmnet)
	vpn := attach("tun0")
	do(w.VPN(vpn))
	from("VPN", vpn)
	do(w.Drop(vpn), w.Default(rmnet))
	from("the VPN is down", rmnet)
	if out, code := in("wget -T 5 -qO- http://127.0.0.1:5037/ || wget -T 5 -qO- http://" + rmnet.Phone + "/"); code == 0 {
		t.Errorf("it reaches the phone itself: %s", out)
	}
	if pids := p.pids("run\x00--name\x00sql\x00"); !slices.Equal(pids, one) {
		t.Errorf("the machine was restarted: it was run by %v, and is by %v", one, pids)
	}
	w.Close()
	p.ok("device", "remove", p.name, "--yes")
	waitFor(t, "the end of all", func() bool { return len(p.pids("sovereignd")) == 0 && len(p.pids("crosvm")) == 0 })
	if d := differs(before, p.seen()); d != "" {
		t.Errorf("what is left:\n%s", d)
	}
}

// site is what there is in the phone's world: a server of names at the gateway of
// each network, which knows site.example, and a web server there that says whom it
// sees.
type site struct {
	mu    sync.Mutex
	asked []string // the addresses of those who asked for the name
}

func (s *site) lastAsked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) == 0 {
		return ""
	}
	return s.asked[len(s.asked)-1]
}

func newSite(t *testing.T, w *testphone.World) *site {
	t.Helper()
	const address = "203.0.113.7"
	if err := w.Address(address); err != nil {
		t.Fatal(err)
	}
	s := &site{}
	web, other, err := w.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	server := &http.Server{Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr) // it is the server's own
		fmt.Fprintln(out, host)
	})}
	go server.Serve(web) //nolint:errcheck // until it is closed
	t.Cleanup(func() { server.Close() })
	none, names, err := w.Listen(53)
	if err != nil {
		t.Fatal(err)
	}
	none.Close()
	t.Cleanup(func() { names.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := names.ReadFrom(b)
			if err != nil {
				return
			}
			answer, err := s.answer(b[:n], address)
			if err != nil {
				t.Errorf("the server of names was asked %x: %v", b[:n], err)
				continue
			}
			s.mu.Lock()
			s.asked = append(s.asked, from.(*net.UDPAddr).IP.String())
			s.mu.Unlock()
			names.WriteTo(answer, from) //nolint:errcheck // who asked asks again
		}
	}()
	return s
}

func (s *site) answer(query []byte, address string) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.RecursionAvailable, m.RCode, m.Additionals = true, true, dnsmessage.RCodeNameError, nil
	if i := slices.IndexFunc(m.Questions, func(q dnsmessage.Question) bool { return q.Name.String() == "site.example." }); i >= 0 {
		m.RCode = dnsmessage.RCodeSuccess
		if q := m.Questions[i]; q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
			}}
		}
	}
	return m.Pack()
}
