package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
)

// NewHandler returns the endpoints of the guest, for a Backend, and for an
// Operator those too. Every request has limits of size, number and time.
func NewHandler(b Backend) http.Handler {
	h := &handler{backend: b, pace: muxhttp.Pace{PerSecond: perSecond}, quick: make(muxhttp.Slots, maxQuick), watchers: make(muxhttp.Slots, maxWatchers), followers: make(muxhttp.Slots, maxFollowers), execs: make(muxhttp.Slots, maxExecs), replicas: make(muxhttp.Slots, maxReplicas)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", h.status)
	mux.HandleFunc("GET /v1/secrets/{service}/{name}", h.short(quickLimit, h.secret))
	mux.HandleFunc("GET /v1/logs/{service}", h.logs)
	mux.HandleFunc("POST /v1/shutdown", h.short(quickLimit, h.shutdown))
	mux.HandleFunc("POST /v1/freeze", h.short(quickLimit, h.freeze))
	mux.HandleFunc("POST /v1/thaw", h.short(quickLimit, h.thaw))
	if o, ok := b.(Operator); ok {
		h.operator(mux, o)
	}
	if o, ok := b.(Historian); ok {
		h.continuity(mux, o)
	}
	if s, ok := b.(Snapshotter); ok {
		h.snapshots(mux, s)
	}
	if p, ok := b.(Replicator); ok {
		mux.HandleFunc("POST /v1/services/{service}/log", func(w http.ResponseWriter, r *http.Request) { h.replicate(w, r, p) })
	}
	if c, ok := b.(RestoreChecker); ok {
		mux.HandleFunc("POST /v1/restored", func(w http.ResponseWriter, r *http.Request) { h.restored(w, r, c) })
	}
	return h.paced(mux)
}

type handler struct {
	backend                           Backend
	pace                              muxhttp.Pace
	quick, watchers, followers, execs muxhttp.Slots
	replicas                          muxhttp.Slots
}

// paced is before every endpoint. A request with a body where none is read
// ends the connection, so that the server does not wait for it.
func (h *handler) paced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.pace.Wait(r.Context()) != nil {
			return // the host is gone
		}
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// short is a request that ends by itself, within limit.
func (h *handler) short(limit time.Duration, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		release := h.quick.Take(w)
		if release == nil {
			return
		}
		defer release()
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		next(w, r.WithContext(ctx))
		// The answer is small; it is sent after this.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(bodyLimit))
	}
}

// readBody reads a body of at most limit bytes within bodyLimit, or answers
// why not.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, bool) {
	c := http.NewResponseController(w)
	err := c.SetReadDeadline(time.Now().Add(bodyLimit))
	var b []byte
	if err == nil {
		b, err = io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		http.Error(w, "body: want at most "+strconv.FormatInt(limit, 10)+" bytes", http.StatusRequestEntityTooLarge)
		return nil, false
	case err == nil:
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil {
		http.Error(w, "body: "+err.Error(), http.StatusBadRequest)
	}
	return b, err == nil
}

// answer sends a value as JSON.
func answer(w http.ResponseWriter, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(text, '\n')) //nolint:errcheck // a write error means that the host is gone
}

func (h *handler) secret(w http.ResponseWriter, r *http.Request) {
	value, err := h.backend.Secret(r.Context(), r.PathValue("service"), r.PathValue("name"))
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	io.WriteString(w, value) //nolint:errcheck // as in answer
}

func (h *handler) logs(w http.ResponseWriter, r *http.Request) {
	follow, kind := false, h.quick
	if v := r.URL.Query().Get("follow"); v != "" {
		var err error
		if follow, err = strconv.ParseBool(v); err != nil {
			http.Error(w, "follow: want true or false", http.StatusBadRequest)
			return
		}
	}
	if follow {
		kind = h.followers
	}
	release := kind.Take(w)
	if release == nil {
		return
	}
	defer release()
	log, err := h.backend.Logs(r.Context(), r.PathValue("service"), follow)
	if err != nil {
		fail(w, err)
		return
	}
	defer log.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	c := http.NewResponseController(w)
	if err := c.Flush(); err != nil { // a log may have nothing to say for long
		return
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := log.Read(buf)
		if n > 0 && sendPart(w, c, buf[:n], follow) != nil {
			panic(http.ErrAbortHandler) // the host is gone, or is to see that this is not all
		}
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			panic(http.ErrAbortHandler)
		}
	}
}

// sendPart sends a part of a long answer. Who follows may pause for as long
// as he likes: a pager does.
func sendPart(w io.Writer, c *http.ResponseController, b []byte, follow bool) error {
	if !follow {
		if err := c.SetWriteDeadline(time.Now().Add(bodyLimit)); err != nil {
			return err
		}
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	return c.Flush()
}

func (h *handler) shutdown(w http.ResponseWriter, r *http.Request) {
	if err := h.backend.Shutdown(r.Context()); err != nil {
		fail(w, err)
		return
	}
	// The whole answer is on its way when this returns: the machine may be off
	// a moment later.
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	_ = http.NewResponseController(w).Flush() // the host is gone, and the guest stops all the same
}

func (h *handler) freeze(w http.ResponseWriter, r *http.Request) {
	seconds, err := strconv.Atoi(r.URL.Query().Get("seconds"))
	limit := time.Duration(seconds) * time.Second
	if err != nil || seconds < 1 || seconds > int(maxFreeze/time.Second) {
		http.Error(w, "seconds: want 1 to 600", http.StatusBadRequest)
		return
	}
	done(w, h.backend.Freeze(r.Context(), limit), http.StatusNoContent)
}

func (h *handler) thaw(w http.ResponseWriter, r *http.Request) {
	done(w, h.backend.Thaw(r.Context()), http.StatusNoContent)
}

func done(w http.ResponseWriter, err error, status int) {
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(status)
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		status = http.StatusNotFound
	case errors.Is(err, fs.ErrInvalid):
		status = http.StatusBadRequest
	}
	http.Error(w, err.Error(), status)
}
