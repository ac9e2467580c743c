package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

var (
	image  = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	cookie = [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
)

// stamp is a time as the format has it.
func stamp(t time.Time) uint64 {
	return uint64(t.Unix()+2208988800)<<32 | uint64(t.Nanosecond())<<32/1e9
}

// reply is a good answer of a server whose clock is at t.
func reply(cookie [8]byte, t time.Time) []byte {
	b := make([]byte, packetSize)
	b[0], b[1] = version<<3|modeServer, 2
	copy(b[24:], cookie[:])
	binary.BigEndian.PutUint64(b[32:], stamp(t))
	binary.BigEndian.PutUint64(b[40:], stamp(t))
	return b
}

func TestParse(t *testing.T) {
	sent := time.Date(1970, 1, 1, 0, 0, 9, 0, time.UTC)
	for _, at := range []time.Time{image.Add(time.Hour), time.Date(2036, 2, 7, 6, 28, 20, 0, time.UTC), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)} {
		s, err := parse(reply(cookie, at), cookie, sent, sent.Add(100*time.Millisecond), image)
		want := at.Sub(sent.Add(50 * time.Millisecond))
		if err != nil || (s.offset-want).Abs() > time.Microsecond || s.delay != 100*time.Millisecond {
			t.Errorf("%v: got %+v, %v; want %v", at, s, err, want)
		}
	}
	change := func(i int, v byte) []byte { b := reply(cookie, image); b[i] = v; return b }
	for _, c := range []struct {
		b    []byte
		want string
	}{
		{nil, "0 bytes"},
		{reply(cookie, image)[:47], "47 bytes"},
		{change(0, version<<3|modeClient), "mode 3"},
		{change(0, 1<<3|modeServer), "version 1"},
		{change(0, 3<<6|version<<3|modeServer), "no time itself"},
		{change(1, 16), "no time itself"},
		{change(1, 0), "wants not to be asked"},
		{change(31, 0), "not an answer"},
		{change(4, 1), "too far"},
		{change(8, 1), "too far"},
		{change(40, 0), "without its times"},
	} {
		if _, err := parse(c.b, cookie, sent, sent, image); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", c.want, err)
		}
	}
	if _, err := parse(reply(cookie, image), cookie, sent, sent.Add(3*time.Second), image); err == nil {
		t.Error("an answer after three seconds was taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(reply(cookie, image))
	f.Add(reply(cookie, image)[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		now := image.Add(time.Hour)
		s, err := parse(b, cookie, now, now.Add(time.Millisecond), image)
		if err == nil && (now.Add(s.offset).Before(image.Add(-time.Second)) || s.delay < 0) {
			t.Errorf("got %+v", s)
		}
	})
}

// A server on this machine, behind others' packets.
func TestQuery(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ahead := 48 * time.Hour
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			if n != packetSize {
				continue
			}
			good := reply([8]byte(b[40:48]), time.Now().Add(ahead))
			for _, p := range [][]byte{{1}, reply(cookie, image), good} {
				server.WriteTo(p, from)
			}
		}
	}()
	s, err := query(t.Context(), server.LocalAddr().String(), image)
	if err != nil || (s.offset-ahead).Abs() > time.Second {
		t.Errorf("got %+v, %v", s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := query(ctx, server.LocalAddr().String(), image); err == nil {
		t.Error("a cancelled question was answered")
	}
}

// fake is a clock that is wrong by a constant, and the reports of its keeper.
type fake struct {
	mu      sync.Mutex
	wrong   time.Duration // to add to the test's time
	slewed  time.Duration
	sources []agent.Clock
	last    error
	notes   int
	machine time.Duration // by which the machine's own clock is wrong
	noRTC   bool
	lie     time.Duration // of the good server
	asked   int
}

func (f *fake) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Add(f.wrong)
}
func (f *fake) step(to time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = time.Until(to)
	return nil
}
func (f *fake) slew(by time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slewed += by
	f.wrong += by
	return nil
}

func (f *fake) keeper(servers ...string) *Keeper {
	k := New(Options{Earliest: time.Now().Add(-time.Hour), Servers: servers,
		Report: func(c agent.Clock, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.sources, f.last = append(f.sources, c), err
		},
		Note: func(string) { f.mu.Lock(); f.notes++; f.mu.Unlock() }})
	k.kernel = f
	k.machine = func() (time.Time, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.noRTC {
			return time.Time{}, errors.New("no clock")
		}
		return time.Now().Add(f.machine), nil
	}
	k.query = func(_ context.Context, server string, _ time.Time) (sample, error) {
		if server != "good" {
			return sample{}, errors.New("no answer")
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.asked++
		return sample{offset: f.lie - f.wrong}, nil
	}
	return k
}

func (f *fake) wrongNow() time.Duration { f.mu.Lock(); defer f.mu.Unlock(); return f.wrong }

func (f *fake) set(d time.Duration) { f.mu.Lock(); f.wrong = d; f.mu.Unlock() }

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := &fake{wrong: -24 * time.Hour, noRTC: true}
		k := f.keeper("bad")
		go k.Run(ctx)
		time.Sleep(time.Minute) // the test's own time, which does not pass
		synctest.Wait()
		if f.sources[0] != agent.ClockUnset || f.last == nil || f.wrongNow() != -24*time.Hour {
			t.Errorf("without a server: %v, %v", f.sources, f.last)
		}
		k.Found([]string{"good"})
		synctest.Wait()
		if s := f.sources; s[len(s)-1] != agent.ClockNTP || f.last != nil || f.wrongNow().Abs() > time.Millisecond || f.notes != 1 {
			t.Errorf("set: %v, %v, wrong by %v", f.sources, f.last, f.wrongNow())
		}
		f.set(100 * time.Millisecond)
		time.Sleep(2 * pollMin)
		synctest.Wait()
		if f.slewed != -100*time.Millisecond || f.notes != 1 {
			t.Errorf("slewed %v, %d steps", f.slewed, f.notes)
		}
		f.set(-time.Hour) // a jump
		time.Sleep(2 * pollMax)
		synctest.Wait()
		if f.wrongNow().Abs() > time.Millisecond || f.notes != 2 {
			t.Errorf("after a jump wrong by %v, %d steps", f.wrongNow(), f.notes)
		}
		cancel()
	})
}

func TestRunByTheMachinesClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := &fake{}
		go f.keeper().Run(ctx)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(f.sources) != 1 || f.sources[0] != agent.ClockRTC || f.last != nil {
			t.Errorf("got %v, %v", f.sources, f.last)
		}
		cancel()
	})
}

// paused is a machine that stood still for d: the kernel's clock has missed it.
func (f *fake) paused(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong -= d
}

func (f *fake) change(change func()) { f.mu.Lock(); defer f.mu.Unlock(); change() }

func TestPausedWithoutAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := &fake{machine: 500 * time.Millisecond}
		k := f.keeper()
		go k.Run(ctx)
		is := func(what string, want time.Duration, notes int) {
			t.Helper()
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			if (f.wrong-want).Abs() > time.Millisecond || f.notes != notes || f.last != nil || f.sources[len(f.sources)-1] != agent.ClockRTC {
				t.Errorf("%s: wrong by %v, want %v; set %d times, want %d; %v, %v", what, f.wrong, want, f.notes, notes, f.sources, f.last)
			}
		}
		time.Sleep(time.Hour)
		is("at first", 0, 0)
		f.paused(5 * time.Hour)
		time.Sleep(lookEvery)
		is("after a pause", f.machine, 1)
		f.paused(1400 * time.Millisecond)
		time.Sleep(2 * lookEvery)
		is("a difference within the clock's seconds", f.machine-1400*time.Millisecond, 1)
		f.paused(time.Minute)
		k.Look()
		is("when somebody asks", f.machine, 2)
		f.change(func() { f.machine = -time.Hour })
		time.Sleep(lookEvery)
		is("the host's clock was set back", -time.Hour, 3)
		f.change(func() { f.machine = -24 * 365 * time.Hour })
		time.Sleep(2 * lookEvery)
		is("to before the image was made", -time.Hour, 3)
		f.change(func() { f.noRTC = true })
		f.paused(time.Hour)
		time.Sleep(2 * lookEvery)
		is("without a clock", -2*time.Hour, 3)
	})
}

// The machine's clock is wrong, and a server has told so: what it shows of a
// pause is right all the same.
func TestPausedWithAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := &fake{machine: 20 * time.Minute, wrong: 20 * time.Minute}
		k := f.keeper("good")
		go k.Run(ctx)
		is := func(what string, notes int) {
			t.Helper()
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.wrong.Abs() > time.Millisecond || f.notes != notes || f.last != nil {
				t.Errorf("%s: wrong by %v; set %d times, want %d; %v", what, f.wrong, f.notes, notes, f.last)
			}
		}
		is("at first", 1)
		time.Sleep(3 * pollMax)
		is("later", 1)
		f.paused(72 * time.Hour) // more than a server may change by itself
		time.Sleep(lookEvery)
		is("after a pause", 2)
		// Without an answer the machine's clock says how much was missed.
		k.query = func(context.Context, string, time.Time) (sample, error) { return sample{}, errors.New("no answer") }
		f.paused(time.Hour)
		time.Sleep(lookEvery)
		is("after a pause without a network", 3)
		time.Sleep(3 * pollMax)
		is("later without a network", 3)
	})
}

func TestNoServerMovesTheClockFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := &fake{wrong: -24 * 400 * time.Hour, noRTC: true}
		go f.keeper("good").Run(ctx)
		synctest.Wait()
		if f.wrongNow().Abs() > time.Millisecond {
			t.Fatalf("the first answer is not followed: wrong by %v", f.wrongNow())
		}
		f.change(func() { f.lie = 25 * time.Hour })
		time.Sleep(3 * pollMax)
		synctest.Wait()
		f.change(func() {
			if f.wrong.Abs() > time.Millisecond || f.last == nil || !errors.Is(f.last, errFarOff) || f.asked < 3 {
				t.Errorf("a server that lies: wrong by %v, %v, asked %d times", f.wrong, f.last, f.asked)
			}
			f.lie = 23 * time.Hour
		})
		time.Sleep(3 * pollMax)
		synctest.Wait()
		f.change(func() {
			if f.wrong != 23*time.Hour || f.last != nil {
				t.Errorf("within a day: wrong by %v, %v", f.wrong, f.last)
			}
		})
	})
}

func TestUnsetClockIsSetByTheMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := &fake{wrong: -24 * time.Hour, machine: -24 * time.Hour}
		go f.keeper().Run(ctx)
		time.Sleep(2 * lookEvery)
		synctest.Wait()
		f.change(func() {
			if f.last == nil || f.sources[len(f.sources)-1] != agent.ClockUnset {
				t.Errorf("both before the image: %v, %v", f.sources, f.last)
			}
			f.machine = 0
		})
		time.Sleep(lookEvery)
		synctest.Wait()
		f.change(func() {
			if f.wrong.Abs() > time.Millisecond || f.last != nil || f.sources[len(f.sources)-1] != agent.ClockRTC {
				t.Errorf("wrong by %v, %v, %v", f.wrong, f.sources, f.last)
			}
		})
	})
}

func TestRTCTime(t *testing.T) {
	got := rtcTime(&unix.RTCTime{Year: 126, Mon: 10, Mday: 30, Hour: 6, Min: 7, Sec: 8})
	if want := time.Date(2026, 11, 30, 6, 7, 8, 5e8, time.UTC); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
