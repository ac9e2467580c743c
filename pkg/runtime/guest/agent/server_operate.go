package agent

import (
	"bytes"
	"net/http"
)

// operator adds the endpoints of an Operator.
func (h *handler) operator(mux *http.ServeMux, o Operator) {
	mux.HandleFunc("POST /v1/exec", func(w http.ResponseWriter, r *http.Request) { h.exec(w, r, o) })
	mux.HandleFunc("PUT /v1/secrets/{service}/{name}", h.short(reloadLimit, func(w http.ResponseWriter, r *http.Request) {
		value, ok := readBody(w, r, MaxSecret)
		switch {
		case !ok:
		case len(value) == 0 || bytes.IndexByte(value, 0) >= 0:
			http.Error(w, "a secret's value is not empty and has no zero byte", http.StatusBadRequest)
		default:
			done(w, o.SetSecret(r.Context(), r.PathValue("service"), r.PathValue("name"), string(value)), http.StatusNoContent)
		}
	}))
	mux.HandleFunc("POST /v1/secrets/{service}/{name}/rotate", h.short(reloadLimit, func(w http.ResponseWriter, r *http.Request) {
		done(w, o.RotateSecret(r.Context(), r.PathValue("service"), r.PathValue("name")), http.StatusNoContent)
	}))
	mux.HandleFunc("POST /v1/services/{service}/restart", h.short(quickLimit, func(w http.ResponseWriter, r *http.Request) {
		done(w, o.RestartService(r.Context(), r.PathValue("service")), http.StatusAccepted)
	}))
	mux.HandleFunc("GET /v1/boot", h.short(quickLimit, func(w http.ResponseWriter, _ *http.Request) { answer(w, o.Boot()) }))
	mux.HandleFunc("GET /v1/metrics", h.short(quickLimit, func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		if err := o.Metrics(&b); err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		w.Write(b.Bytes()) //nolint:errcheck // as in answer
	}))
	mux.HandleFunc("POST /v1/grow", h.short(growLimit, func(w http.ResponseWriter, r *http.Request) {
		done(w, o.Grow(r.Context()), http.StatusNoContent)
	}))
}
