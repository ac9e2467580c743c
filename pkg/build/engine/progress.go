package engine

import (
	"context"
	"strings"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// display is the one progress display all steps of an engine share.
type display struct {
	all  bool // rawjson: for programs, so nothing is left out
	ch   chan *client.SolveStatus
	quit chan struct{}
	once sync.Once
	done chan error
}

func newDisplay(o *options) (*display, error) {
	d, err := progressui.NewDisplay(o.stream, o.mode)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "progress %s: %w", o.mode, err).Hintf("use plain where the output is no terminal")
	}
	s := &display{
		all:  o.mode == progressui.RawJSONMode,
		ch:   make(chan *client.SolveStatus),
		quit: make(chan struct{}),
		done: make(chan error, 1),
	}
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
func (s *display) send(st *client.SolveStatus) {
	select {
	case s.ch <- st:
	case <-s.quit:
	}
}

// close draws the last state and returns when nothing will be written anymore.
func (s *display) close() error {
	var err error
	s.once.Do(func() {
		close(s.quit)
		err = <-s.done
	})
	return err
}

// observer follows one solve: it writes the step's log, notices whether the
// step came from the cache and passes on what people want to see.
type observer struct {
	name   string
	log    *stepLog
	show   *display
	vertex digest.Digest // the step's own; "" until seen
	cached bool
	ran    bool
	hidden map[digest.Digest]bool
	err    error // first error of writing the log
}

// follow consumes ch until it is closed.
func (o *observer) follow(ch <-chan *client.SolveStatus) {
	for st := range ch {
		for _, v := range st.Vertexes {
			if v.Name == o.name {
				o.vertex = v.Digest
				o.cached = o.cached || v.Cached
				o.ran = o.ran || v.Started != nil && !v.Cached
			}
			// One line for each of a hundred inputs tells nobody anything.
			if strings.HasPrefix(v.Name, inputVertex) && v.Error == "" {
				o.hidden[v.Digest] = true
			}
		}
		for _, l := range st.Logs {
			if l.Vertex == o.vertex {
				if err := o.log.write(l.Data); err != nil && o.err == nil {
					o.err = err
				}
			}
		}
		if o.show.all {
			o.show.send(st)
		} else {
			o.show.send(o.filter(st))
		}
	}
}

func (o *observer) filter(st *client.SolveStatus) *client.SolveStatus {
	out := &client.SolveStatus{Logs: st.Logs, Warnings: st.Warnings}
	for _, v := range st.Vertexes {
		if !o.hidden[v.Digest] {
			out.Vertexes = append(out.Vertexes, v)
		}
	}
	for _, s := range st.Statuses {
		if !o.hidden[s.Vertex] {
			out.Statuses = append(out.Statuses, s)
		}
	}
	return out
}
