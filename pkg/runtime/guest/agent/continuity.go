package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

// Continuity is where the data disk is in its history; see package continuity.
type Continuity struct {
	Lineage string `json:"lineage,omitempty"`
	Epoch   uint64 `json:"epoch,omitempty"`
	Hash    string `json:"hash,omitempty"`
	// At is when the record was written, by the guest's clock.
	At time.Time `json:"at,omitzero"`
	// Verdict is what the disk was, against what the host remembers, when the
	// guest started. Held: so no service was started, and the disk is read-only.
	Verdict string `json:"verdict"`
	Held    bool   `json:"held,omitempty"`
	// Written: there is more on the disk than when the record was made.
	Written bool `json:"written,omitempty"`
}

// A Historian is a Backend whose data disk has a history. The endpoints for it
// are absent (404) where a Backend is none.
type Historian interface {
	// Record writes a new record of continuity to the disk. It is an error on a
	// disk that is held.
	Record(ctx context.Context) (Continuity, error)
	// AcceptRollback writes the record by which a disk that is held goes on at
	// the next start. It is fs.ErrInvalid on one that is not. With a witness the
	// record has that among those before it, also where the disk is not held.
	AcceptRollback(ctx context.Context, reason string, w *continuity.Witness) (Continuity, error)
	// Compare holds the disk to what a witness says.
	Compare(ctx context.Context, w continuity.Witness) (Compared, error)
}

// Compared is what a disk is, held to a witness.
type Compared struct {
	Verdict continuity.Verdict `json:"verdict"`
	// Oldest is the epoch that the disk's records reach back to.
	Oldest uint64 `json:"oldest"`
}

const (
	maxReason  = 500 // bytes
	maxWitness = 200 // bytes
)

// continuity adds the endpoints of a Historian.
func (h *handler) continuity(mux *http.ServeMux, o Historian) {
	mux.HandleFunc("POST /v1/continuity", h.short(quickLimit, func(w http.ResponseWriter, r *http.Request) {
		c, err := o.Record(r.Context())
		answerOr(w, c, err)
	}))
	mux.HandleFunc("POST /v1/continuity/accept", h.short(quickLimit, func(w http.ResponseWriter, r *http.Request) {
		reason, ok := readBody(w, r, maxReason)
		if !ok {
			return
		}
		var witness *continuity.Witness
		if text := r.URL.Query().Get("witness"); text != "" {
			v, err := continuity.ParseWitness(text)
			if err != nil {
				http.Error(w, "witness: "+err.Error(), http.StatusBadRequest)
				return
			}
			witness = &v
		}
		c, err := o.AcceptRollback(r.Context(), string(reason), witness)
		answerOr(w, c, err)
	}))
	mux.HandleFunc("POST /v1/continuity/compare", h.short(quickLimit, func(w http.ResponseWriter, r *http.Request) {
		text, ok := readBody(w, r, maxWitness)
		if !ok {
			return
		}
		witness, err := continuity.ParseWitness(string(text))
		if err != nil {
			http.Error(w, "witness: "+err.Error(), http.StatusBadRequest)
			return
		}
		c, err := o.Compare(r.Context(), witness)
		answerOr(w, c, err)
	}))
}

func answerOr(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, v)
}

// Record has the guest write a new record of continuity to its disk, and returns
// it: what a witness is told of then is on the disk already.
func (c *Client) Record(ctx context.Context) (Continuity, error) {
	var v Continuity
	err := c.continuity(ctx, "/v1/continuity", "", &v)
	return v, err
}

// AcceptRollback has a disk that is held go on at the guest's next start, by its
// owner's word; with a witness, also one that is not held goes on behind what
// that remembers.
func (c *Client) AcceptRollback(ctx context.Context, reason string, w *continuity.Witness) (Continuity, error) {
	path := "/v1/continuity/accept"
	if w != nil {
		path += "?witness=" + url.QueryEscape(w.String())
	}
	var v Continuity
	err := c.continuity(ctx, path, reason, &v)
	return v, err
}

// Compare has the guest hold its disk to what a witness says.
func (c *Client) Compare(ctx context.Context, w continuity.Witness) (Compared, error) {
	var v Compared
	err := c.continuity(ctx, "/v1/continuity/compare", w.String(), &v)
	return v, err
}

func (c *Client) continuity(ctx context.Context, path, body string, v any) error {
	text, err := c.callWith(ctx, http.MethodPost, path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fault.Errorf(fault.Device, "guest agent: continuity: %w", err)
	}
	return nil
}
