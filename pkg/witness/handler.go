package witness

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 10

// Handler answers, to whoever has one of the tokens:
//
//	GET  /v1/key                              the key that answers are held to
//	GET  /v1/lineages/LINEAGE?nonce=NONCE     a signed answer
//	POST /v1/lineages/LINEAGE                 the same, after Told was taken or not
//
// Failed is called with what goes wrong here, the disk say, and may be nil.
func (w *Witness) Handler(tokens []string, failed func(error)) http.Handler {
	owners := make([]sum, len(tokens))
	for n, t := range tokens {
		owners[n] = sha256.Sum256([]byte(t))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/key", w.as(owners, func(rw http.ResponseWriter, _ *http.Request, _ string) {
		fmt.Fprintln(rw, w.Verifier)
	}))
	mux.HandleFunc("GET /v1/lineages/{lineage}", w.as(owners, func(rw http.ResponseWriter, r *http.Request, owner string) {
		nonce := r.URL.Query().Get("nonce")
		if !continuity.IsID(nonce) {
			http.Error(rw, "nonce: want 32 hex digits", http.StatusBadRequest)
			return
		}
		k, err := w.ask(owner, r.PathValue("lineage"))
		w.answer(rw, http.StatusOK, r.PathValue("lineage"), nonce, k, err, failed)
	}))
	mux.HandleFunc("POST /v1/lineages/{lineage}", w.as(owners, func(rw http.ResponseWriter, r *http.Request, owner string) {
		var t Told
		d := json.NewDecoder(http.MaxBytesReader(rw, r.Body, maxBody))
		d.DisallowUnknownFields()
		err := d.Decode(&t)
		if err == nil {
			err = t.check()
		}
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		v, k, err := w.tell(owner, r.PathValue("lineage"), t)
		code := map[Verdict]int{Kept: http.StatusOK, Stale: http.StatusConflict, Forked: http.StatusUnprocessableEntity}[v]
		w.answer(rw, code, r.PathValue("lineage"), t.Nonce, k, err, failed)
	}))
	return mux
}

type sum = [sha256.Size]byte

// as finds out whose token a request has.
func (w *Witness) as(owners []sum, next func(http.ResponseWriter, *http.Request, string)) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		given, found := sha256.Sum256([]byte(token)), 0
		for _, o := range owners {
			found |= subtle.ConstantTimeCompare(given[:], o[:])
		}
		if !ok || found != 1 {
			http.Error(rw, "this witness does not know the token", http.StatusUnauthorized)
			return
		}
		next(rw, r, hex.EncodeToString(given[:16]))
	}
}

func (w *Witness) answer(rw http.ResponseWriter, code int, lineage, nonce string, k kept, err error, failed func(error)) {
	var text []byte
	if err == nil {
		text, err = Answer{Lineage: lineage, Kept: k.point, Since: k.since, Nonce: nonce}.Sign(w.signer)
	}
	switch {
	case err == nil:
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		rw.WriteHeader(code)
		rw.Write(text) //nolint:errcheck // a write error means that the asker is gone
	case errors.Is(err, errLineage):
		http.Error(rw, err.Error(), http.StatusBadRequest)
	case errors.Is(err, errOwner):
		http.Error(rw, err.Error(), http.StatusForbidden)
	case errors.Is(err, errFull):
		http.Error(rw, err.Error(), http.StatusInsufficientStorage)
	default:
		if failed != nil {
			failed(err)
		}
		http.Error(rw, "the witness cannot keep anything now", http.StatusInternalServerError)
	}
}
