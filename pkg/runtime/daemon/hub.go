package daemon

import (
	"sync"
	"sync/atomic"

	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// maxQueue bounds the events that wait for one reader. A status takes the place
// of an older one; of lines for people the oldest is dropped.
const maxQueue = 256

// hub gives events to whoever reads them, and waits for nobody.
type hub struct {
	clock atomic.Uint64 // orders looks at machines

	mu      sync.Mutex
	readers map[*reader]struct{}
}

// look is when somebody began to look at a machine: what he has seen is newer
// than what was seen in an earlier look.
type look uint64

func (h *hub) look() look { return look(h.clock.Add(1)) }

// reader is one who is told of events.
type reader struct {
	hub  *hub
	name string // of the machine; "" is all

	poked chan struct{}
	mu    sync.Mutex
	queue []queued
	seen  map[string]look // of the machines' last status
}

type queued struct {
	look  look
	event runtime.Event
}

// read makes the caller a reader, until close.
func (h *hub) read(name string) *reader {
	r := &reader{hub: h, name: name, poked: make(chan struct{}, 1), seen: map[string]look{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readers[r] = struct{}{}
	return r
}

func (r *reader) close() {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	delete(r.hub.readers, r)
}

// wanted says whether anybody reads a machine's events.
func (h *hub) wanted(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.readers {
		if r.name == "" || r.name == name {
			return true
		}
	}
	return false
}

// tell gives an event to its readers. at is for those with a status.
func (h *hub) tell(at look, e runtime.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.readers {
		if r.name == "" || r.name == e.Machine {
			r.put(at, e)
		}
	}
}

func (r *reader) put(at look, e runtime.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Status != nil {
		if at <= r.seen[e.Machine] {
			return // it is older than what the reader was told
		}
		r.seen[e.Machine] = at
		r.drop(func(q queued) bool { return q.event.Status != nil && q.event.Machine == e.Machine })
	} else if len(r.queue) >= maxQueue {
		r.drop(func(q queued) bool {
			return q.event.Phase != runtime.PhaseStatus && q.event.Phase != runtime.PhaseRemoved
		})
	}
	r.queue = append(r.queue, queued{at, e})
	poke(r.poked)
}

// drop removes the first that is.
func (r *reader) drop(is func(queued) bool) {
	for i, q := range r.queue {
		if is(q) {
			r.queue = append(r.queue[:i], r.queue[i+1:]...)
			return
		}
	}
}

// next takes what waits.
func (r *reader) next() []queued {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.queue
	r.queue = nil
	return q
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is going to look anyway
	}
}
