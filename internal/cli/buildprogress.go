package cli

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// buildProgress shows the events of a build: the engine's in BuildKit's own
// display, the others as lines beside it.
type buildProgress struct {
	mode    progressui.DisplayMode
	w       io.Writer
	display *engineDisplay
	said    map[string]time.Time // when a download was last told of
}

func newBuildProgress(mode string, w io.Writer) (*buildProgress, error) {
	p := &buildProgress{mode: progressui.DisplayMode(mode), w: w, said: map[string]time.Time{}}
	var err error
	p.display, err = newEngineDisplay(p.mode, w)
	return p, err
}

// quiet says whether only what must be seen is shown.
func (p *buildProgress) quiet() bool {
	return p.mode == progressui.QuietMode || p.mode == progressui.RawJSONMode
}

// event shows an event; see build.WithEvents.
func (p *buildProgress) event(e build.Event) {
	line := e.String()
	switch e := e.(type) {
	case build.EngineStatus:
		// rawjson is for programs, so nothing is left out.
		if p.mode == progressui.RawJSONMode {
			p.display.send(e.Full)
		} else {
			p.display.send(e.Brief)
		}
		return
	case build.StepCached, build.StepStarted, build.StepDone, build.StepLog:
		return // the display has what the engine says of them
	case build.Fetched:
		if e.Name == lock.ToolchainName {
			return // a hundred packages
		}
	case build.Fetching:
		now := time.Now()
		if now.Sub(p.said[e.Name]) < meterEvery {
			return
		}
		p.said[e.Name] = now
	case build.SumsLacking:
		line += "; --write-sums writes it"
	}
	switch e.(type) {
	case build.ToolchainDiffers, build.PackagesLocked, build.InputRelocked, build.LockRemark, build.SumsSkipped, build.SumsLacking, build.SumsDiffer, build.CacheTrouble, build.LicensesLeftOut:
	default:
		if p.quiet() {
			return
		}
	}
	fmt.Fprintf(p.w, "sovereign-build: %s\n", printable.Lines(line))
}

// close draws the last state and returns when nothing will be written anymore.
func (p *buildProgress) close() error { return p.display.close() }

// engineDisplay is the one display that all steps of a build share.
type engineDisplay struct {
	ch   chan *client.SolveStatus
	quit chan struct{}
	once sync.Once
	done chan error
}

func newEngineDisplay(mode progressui.DisplayMode, w io.Writer) (*engineDisplay, error) {
	d, err := progressui.NewDisplay(w, mode)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "progress %s: %w", mode, err).Hintf("use plain where the output is no terminal")
	}
	s := &engineDisplay{ch: make(chan *client.SolveStatus), quit: make(chan struct{}), done: make(chan error, 1)}
	in := make(chan *client.SolveStatus)
	go func() {
		defer close(in)
		for {
			select {
			case st := <-s.ch:
				in <- st
			case <-s.quit:
				return
			}
		}
	}()
	go func() {
		_, err := d.UpdateFrom(context.Background(), in)
		s.done <- err
	}()
	return s, nil
}

// send shows a status. After close it does nothing.
func (s *engineDisplay) send(st *client.SolveStatus) {
	select {
	case s.ch <- st:
	case <-s.quit:
	}
}

func (s *engineDisplay) close() error {
	var err error
	s.once.Do(func() {
		close(s.quit)
		err = <-s.done
	})
	return err
}
