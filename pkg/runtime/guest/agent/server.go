package agent

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"
)

// Limits of the server: a request is a line and a few headers.
const (
	maxHeader     = 16 << 10 // bytes
	maxConcurrent = 16       // requests at a time over all sessions
	maxStreams    = 32       // streams of one session at a time
	maxFreeze     = 10 * time.Minute
)

// NewHandler returns the endpoints of the guest, for a Backend. At most 16
// requests run at a time; more are answered 503.
func NewHandler(b Backend) http.Handler {
	h := &handler{backend: b, slots: make(chan struct{}, maxConcurrent)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", h.status)
	mux.HandleFunc("GET /v1/secrets/{service}/{name}", h.secret)
	mux.HandleFunc("GET /v1/logs/{service}", h.logs)
	mux.HandleFunc("POST /v1/shutdown", h.shutdown)
	mux.HandleFunc("POST /v1/freeze", h.freeze)
	mux.HandleFunc("POST /v1/thaw", h.thaw)
	return h.limited(mux)
}

type handler struct {
	backend Backend
	slots   chan struct{}
}

func (h *handler) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		default:
			http.Error(w, "too many requests at a time: try again later", http.StatusServiceUnavailable)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 4096) // no endpoint reads a body
		next.ServeHTTP(w, r)
	})
}

func (h *handler) status(w http.ResponseWriter, _ *http.Request) {
	text, err := json.Marshal(h.backend.Status())
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
	io.WriteString(w, value) //nolint:errcheck // as in status
}

func (h *handler) logs(w http.ResponseWriter, r *http.Request) {
	follow := false
	if v := r.URL.Query().Get("follow"); v != "" {
		var err error
		if follow, err = strconv.ParseBool(v); err != nil {
			http.Error(w, "follow: want true or false", http.StatusBadRequest)
			return
		}
	}
	log, err := h.backend.Logs(r.Context(), r.PathValue("service"), follow)
	if err != nil {
		fail(w, err)
		return
	}
	defer log.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	flush := http.NewResponseController(w)
	buf := make([]byte, 16<<10)
	for {
		n, err := log.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return // the host is gone
			}
			if err := flush.Flush(); err != nil {
				return
			}
		}
		if err != nil {
			return // io.EOF, or the end of the request
		}
	}
}

func (h *handler) shutdown(w http.ResponseWriter, r *http.Request) {
	h.done(w, h.backend.Shutdown(r.Context()), http.StatusAccepted)
}

func (h *handler) freeze(w http.ResponseWriter, r *http.Request) {
	seconds, err := strconv.Atoi(r.URL.Query().Get("seconds"))
	limit := time.Duration(seconds) * time.Second
	if err != nil || limit < time.Second || limit > maxFreeze {
		http.Error(w, "seconds: want 1 to 600", http.StatusBadRequest)
		return
	}
	h.done(w, h.backend.Freeze(r.Context(), limit), http.StatusNoContent)
}

func (h *handler) thaw(w http.ResponseWriter, r *http.Request) {
	h.done(w, h.backend.Thaw(r.Context()), http.StatusNoContent)
}

func (h *handler) done(w http.ResponseWriter, err error, status int) {
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(status)
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if errors.Is(err, fs.ErrNotExist) {
		status = http.StatusNotFound
	}
	http.Error(w, err.Error(), status)
}
