package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
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
	// the next start. It is fs.ErrInvalid on one that is not.
	AcceptRollback(ctx context.Context, reason string) (Continuity, error)
}

const maxReason = 500 // bytes

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
		c, err := o.AcceptRollback(r.Context(), string(reason))
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
	return c.continuity(ctx, "/v1/continuity", "")
}

// AcceptRollback has a disk that is held go on at the guest's next start, by its
// owner's word.
func (c *Client) AcceptRollback(ctx context.Context, reason string) (Continuity, error) {
	return c.continuity(ctx, "/v1/continuity/accept", reason)
}

func (c *Client) continuity(ctx context.Context, path, body string) (v Continuity, err error) {
	text, err := c.callWith(ctx, http.MethodPost, path, strings.NewReader(body))
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return v, fault.Errorf(fault.Device, "guest agent: continuity: %w", err)
	}
	return v, nil
}
