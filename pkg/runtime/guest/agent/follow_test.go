package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// changing is a guest that tells its changes; BootMS counts them.
type changing struct {
	fakeGuest
	mu  sync.Mutex
	n   int64
	ch  chan struct{}
	ask chan struct{} // one for each Status
}

func newChanging() *changing {
	return &changing{ch: make(chan struct{}), ask: make(chan struct{}, 100)}
}

func (g *changing) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ask <- struct{}{}
	return Status{Name: "sql", State: StateReady, BootMS: g.n}
}

func (g *changing) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ch
}

func (g *changing) change() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n++
	close(g.ch)
	g.ch = make(chan struct{})
}

func TestFollowStatus(t *testing.T) {
	g := newChanging()
	c := dial(t, line(t, g))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []int64
	err := c.FollowStatus(ctx, time.Hour, time.Minute, func(s *Status) error {
		got = append(got, s.BootMS)
		if s.BootMS == 5 {
			cancel()
			<-ctx.Done()
			return nil
		}
		g.change() // while this one is being told, too
		return nil
	})
	if fault.ClassOf(err) != fault.Cancelled || fmt.Sprint(got) != "[0 1 2 3 4 5]" {
		t.Errorf("%v, %v", got, err)
	}
	enough := errors.New("enough")
	if err := c.FollowStatus(t.Context(), time.Hour, time.Minute, func(*Status) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("who has enough: %v", err)
	}
	checkFollowed(t, c)
}

// checkFollowed finds the session usable, with a slot for another follower.
func checkFollowed(t *testing.T, c *Client) {
	t.Helper()
	done := errors.New("done")
	for end := time.Now().Add(time.Minute); ; {
		err := c.FollowStatus(t.Context(), time.Hour, time.Minute, func(*Status) error { return done })
		if errors.Is(err, done) {
			return
		}
		// The guest sees the end of a stream a moment later.
		if !strings.Contains(err.Error(), "503") || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// Without a change there is one answer in a beat, and no other.
func TestFollowStatusBeats(t *testing.T) {
	g := newChanging()
	c := dial(t, line(t, g))
	enough := errors.New("enough")
	n, begin := 0, time.Now()
	err := c.FollowStatus(t.Context(), time.Second, time.Minute, func(*Status) error {
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || time.Since(begin) < 2*time.Second-2*changePause || len(g.ask) != 3 {
		t.Errorf("%v after %v, asked %d times", err, time.Since(begin), len(g.ask))
	}
}

func TestFollowStatusOfTheSilent(t *testing.T) {
	g := newChanging()
	c := dial(t, line(t, g))
	err := c.FollowStatus(t.Context(), time.Second, -time.Millisecond, func(*Status) error { return nil })
	if fault.ClassOf(err) != fault.Device || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("class %d, %v", fault.ClassOf(err), err)
	}
	checkFollowed(t, c)
}

// A guest that cannot tell changes, and one of an older version, say how they
// are once.
func TestFollowStatusOfTheOld(t *testing.T) {
	c := dial(t, line(t, &fakeGuest{}))
	n := 0
	err := c.FollowStatus(t.Context(), time.Hour, time.Minute, func(s *Status) error {
		n++
		if s.BootMS != 1234 {
			t.Errorf("%+v", s)
		}
		return nil
	})
	if !errors.Is(err, ErrAnsweredOnce) || n != 1 {
		t.Errorf("%d times, %v", n, err)
	}
}

// A guest that goes away is an error, and so are bad questions.
func TestFollowStatusEnds(t *testing.T) {
	g := newChanging()
	host := line(t, g)
	c := dial(t, host)
	for _, beat := range []time.Duration{0, -time.Second, 2 * maxBeat} {
		if err := c.FollowStatus(t.Context(), beat, time.Minute, func(*Status) error { return nil }); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("beat %v: %v", beat, err)
		}
	}
	if resp, err := c.do(t.Context(), http.MethodGet, "/v1/status?follow=often", nil); err == nil {
		resp.Body.Close()
		t.Error("a word was taken for a number")
	}
	ended := make(chan error)
	heard := make(chan struct{})
	go func() {
		ended <- c.FollowStatus(t.Context(), time.Hour, time.Minute, func(*Status) error { close(heard); return nil })
	}()
	<-heard
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; fault.ClassOf(err) != fault.Device {
		t.Errorf("class %d, %v", fault.ClassOf(err), err)
	}
}

// There are only so many at a time.
func TestFollowers(t *testing.T) {
	c := dial(t, line(t, newChanging()))
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	heard := make(chan struct{}, maxWatchers)
	for range maxWatchers {
		all.Go(func() {
			err := c.FollowStatus(ctx, time.Hour, time.Minute, func(*Status) error { heard <- struct{}{}; return nil })
			if fault.ClassOf(err) != fault.Cancelled {
				t.Error(err)
			}
		})
	}
	for range maxWatchers {
		<-heard
	}
	if err := c.FollowStatus(t.Context(), time.Hour, time.Minute, func(*Status) error { return nil }); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("one more: %v", err)
	}
	askStatus(t, c)
	cancel()
	all.Wait()
	checkFollowed(t, c)
}

// askStatus asks in the ordinary way.
func askStatus(t *testing.T, c *Client) {
	t.Helper()
	if s, err := c.Status(t.Context()); err != nil || s.Name != "sql" {
		t.Errorf("%+v, %v", s, err)
	}
}
