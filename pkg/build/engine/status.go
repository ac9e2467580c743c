package engine

import (
	"strings"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
)

// Status is what BuildKit says of a step under way, in its own terms, as its
// displays of progress take it.
type Status struct {
	// Step is the step's name.
	Step string
	// Full is all of it. Brief leaves out that the step's inputs are loaded,
	// of which a hundred say nothing to a person.
	Full, Brief *client.SolveStatus
}

// WithStatus has fn told of every change of a step under way. Steps that run at
// once call it at the same time; it should not block.
func WithStatus(fn func(Status)) Option {
	return func(o *options) error { o.status = fn; return nil }
}

// observer follows one solve: it writes the step's log, notices whether the
// step came from the cache and passes on what people want to see.
type observer struct {
	name   string
	log    *stepLog
	tell   func(Status)
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
		if o.tell != nil {
			o.tell(Status{Step: o.name, Full: st, Brief: o.brief(st)})
		}
	}
}

func (o *observer) brief(st *client.SolveStatus) *client.SolveStatus {
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
