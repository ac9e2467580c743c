package agent

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

const (
	// maxBeat bounds the time between two statuses of one that is followed.
	maxBeat = time.Hour
	// changePause is the least time between two of them: what changes together
	// is told together.
	changePause = 100 * time.Millisecond
	// follows is the media type of a status that is followed.
	follows = "application/x-ndjson"
)

// status answers once, or with follow=SECONDS whenever the status has changed,
// and after that time where it has not: one JSON value a line.
func (h *handler) status(w http.ResponseWriter, r *http.Request) {
	watcher, can := h.backend.(Watcher)
	follow := r.URL.Query().Get("follow")
	if follow == "" || !can {
		h.short(quickLimit, func(w http.ResponseWriter, _ *http.Request) { answer(w, h.backend.Status()) })(w, r)
		return
	}
	seconds, err := strconv.Atoi(follow)
	beat := time.Duration(seconds) * time.Second
	if err != nil || seconds < 1 || seconds > int(maxBeat/time.Second) {
		http.Error(w, "follow: want 1 to "+strconv.Itoa(int(maxBeat/time.Second))+" seconds", http.StatusBadRequest)
		return
	}
	release := h.watchers.Take(w)
	if release == nil {
		return
	}
	defer release()
	w.Header().Set("Content-Type", follows)
	c := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	for {
		changed := watcher.Changed() // before it is looked at
		if c.SetWriteDeadline(time.Now().Add(bodyLimit)) != nil || enc.Encode(h.backend.Status()) != nil || c.Flush() != nil {
			panic(http.ErrAbortHandler) // the host is gone
		}
		if !waitFor(r, nil, changePause) || !waitFor(r, changed, beat-changePause) {
			return
		}
	}
}

// waitFor waits for a change or a time; false is the end of the request.
func waitFor(r *http.Request, changed <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.Context().Done():
		return false
	case <-changed:
	case <-t.C:
	}
	return true
}
