package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

// Machines as objects: copied here, written to a stream and made from one.

// tellEvery is how often long work says how far it is.
const tellEvery = 200 * time.Millisecond

// work is a raw stream on which long work tells of itself.
type work struct {
	*control.Stream
	ctx    context.Context // of the request, whose connection the stream is
	cancel context.CancelFunc

	mu   sync.Mutex
	last time.Time
}

// begin makes a raw stream of the request; nil where it has answered.
func begin(w http.ResponseWriter, r *http.Request) *work {
	ctx, cancel := context.WithCancel(r.Context())
	s, err := control.Accept(w, r)
	if err != nil {
		cancel()
		return nil
	}
	return &work{Stream: s, ctx: ctx, cancel: cancel}
}

// untilGone ends the work when the peer is gone: for work that reads nothing.
func (w *work) untilGone() {
	go func() {
		defer w.cancel()
		b := make([]byte, 1)
		for {
			if _, err := w.Read(b); err != nil {
				return
			}
		}
	}()
}

func (w *work) tell(l requests.Line) {
	text, err := json.Marshal(l)
	if err == nil {
		_, err = w.Write(append(text, '\n'))
	}
	if err != nil {
		w.cancel()
	}
}

// moved tells how far it is, now and then.
func (w *work) moved(done, total int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.last) < tellEvery {
		return
	}
	w.last = time.Now()
	w.tell(requests.Line{Done: done, Total: total})
}

// over tells how it ended.
func (w *work) over(l requests.Line, err error) {
	defer w.cancel()
	defer w.Close() //nolint:errcheck // the peer is gone
	l.Over = true
	if err != nil {
		l = requests.Line{Over: true, Class: int(fault.ClassOf(err)), Error: err.Error(), Hint: fault.HintOf(err)}
	}
	w.tell(l)
	_ = w.CloseWrite() // as above
	// What the peer still sends is of no use; it closes when it has heard.
	bufio.NewReader(w).Discard(1 << 40) //nolint:errcheck // as above
}

func (d *daemon) postClone(w http.ResponseWriter, r *http.Request) {
	i := d.instance(w, r)
	if i == nil {
		return
	}
	to := r.URL.Query().Get("to")
	s := begin(w, r)
	if s == nil {
		return
	}
	s.untilGone()
	info, err := d.r.Clone(s.ctx, i.Name(), to, s.moved)
	d.look()
	s.over(requests.Line{Name: to, From: i.Name(), Size: info.Size, HoldMS: info.HoldMS}, err)
}

// postExport sends the machine's file, which says itself how it ended.
func (d *daemon) postExport(w http.ResponseWriter, r *http.Request) {
	i := d.instance(w, r)
	if i == nil {
		return
	}
	s := begin(w, r)
	if s == nil {
		return
	}
	defer s.cancel()
	defer s.Close()
	s.untilGone()
	if err := d.r.Export(s.ctx, i.Name(), s); err != nil {
		d.report(i.Name(), "export: "+err.Error())
	}
	_ = s.CloseWrite() // the peer is gone
	<-s.ctx.Done()     // until it has read all, and closes
}

func (d *daemon) postImport(w http.ResponseWriter, r *http.Request) {
	clone, err := boolean(r, "clone", false)
	if err != nil {
		control.WriteError(w, err)
		return
	}
	s := begin(w, r)
	if s == nil {
		return
	}
	made, err := d.r.Import(s.ctx, r.URL.Query().Get("name"), clone, s)
	d.look()
	s.over(requests.Line{Name: made.Name, From: made.From, Size: made.Size}, err)
}

func (d *daemon) postRename(w http.ResponseWriter, r *http.Request) {
	var q requests.Name
	if !control.ReadRequest(w, r, &q) {
		return
	}
	name := r.PathValue("name")
	err := d.change(name, func() error { return d.r.Rename(r.Context(), name, q.Name) })
	if err == nil {
		d.hub.tell(0, runtime.Event{Phase: runtime.PhaseRemoved, Machine: name})
	}
	d.look()
	answer(w, struct{}{}, err)
}
