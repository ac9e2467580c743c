package daemon

import (
	"fmt"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func newHub() *hub { return &hub{readers: map[*reader]struct{}{}} }

func statusEvent(name string, pid int) runtime.Event {
	return runtime.Event{Phase: runtime.PhaseStatus, Machine: name, Status: &runtime.Status{Name: name, PID: pid}}
}

func texts(q []queued) string {
	out := ""
	for _, v := range q {
		if v.event.Status != nil {
			out += fmt.Sprintf("%s=%d ", v.event.Machine, v.event.Status.PID)
		} else {
			out += v.event.Machine + ":" + v.event.Text + " "
		}
	}
	return out
}

// A reader is told of what it reads, of the newest status of each machine only,
// and never of one that was seen before what it knows.
func TestHub(t *testing.T) {
	h := newHub()
	all, one := h.read(""), h.read("a")
	if !h.wanted("a") || !h.wanted("b") {
		t.Error("nobody reads")
	}
	first, second, third := h.look(), h.look(), h.look()
	h.tell(second, statusEvent("a", 2))
	h.tell(0, runtime.Event{Phase: runtime.PhaseKeep, Machine: "a", Text: "x"})
	h.tell(first, statusEvent("a", 1)) // it was overtaken
	h.tell(first, statusEvent("b", 1))
	h.tell(third, statusEvent("a", 3))
	if got := texts(all.next()); got != "a:x b=1 a=3 " {
		t.Errorf("all: %s", got)
	}
	if got := texts(one.next()); got != "a:x a=3 " {
		t.Errorf("one: %s", got)
	}
	h.tell(second, statusEvent("a", 2)) // older than what was taken
	if got := texts(all.next()); got != "" {
		t.Errorf("again: %s", got)
	}
	all.close()
	if h.wanted("b") || !h.wanted("a") {
		t.Error("who reads what?")
	}
	one.close()
	if h.wanted("a") {
		t.Error("somebody reads")
	}
}

// One who does not read holds nobody up, and loses the oldest lines, no status.
func TestHubSlowReader(t *testing.T) {
	h := newHub()
	r := h.read("")
	h.tell(h.look(), statusEvent("a", 1))
	for n := range 10 * maxQueue {
		h.tell(0, runtime.Event{Phase: runtime.PhaseKeep, Machine: "a", Text: fmt.Sprint(n)})
	}
	q := r.next()
	if len(q) != maxQueue || q[0].event.Status == nil || q[1].event.Text == "0" || q[len(q)-1].event.Text != fmt.Sprint(10*maxQueue-1) {
		t.Errorf("%d events: %.200s", len(q), texts(q))
	}
}
