package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// bodyLimit is how long the peer may take to send a request's JSON text.
const bodyLimit = 30 * time.Second

// ReadRequest reads a request's JSON text into v, or answers why not. A key
// that v does not have is an error: the peer is newer, and would have something
// else done than it gets.
func ReadRequest(w http.ResponseWriter, r *http.Request, v any) bool {
	c := http.NewResponseController(w)
	err := c.SetReadDeadline(time.Now().Add(bodyLimit))
	var text []byte
	if err == nil {
		text, err = io.ReadAll(http.MaxBytesReader(w, r.Body, MaxRequest))
	}
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err == nil {
		err = parseRequest(text, v)
	}
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return true
	case errors.As(err, &large):
		err = fault.Errorf(fault.Usage, "a request of more than %d bytes", MaxRequest)
	}
	WriteError(w, fault.Wrap(fault.Usage, err))
	return false
}

func parseRequest(text []byte, v any) error {
	if len(text) == 0 {
		return nil // all is as v has it
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		e := fault.Errorf(fault.Usage, "the request: %w", err)
		if strings.Contains(err.Error(), "unknown field") {
			return e.Hintf("the sovereignd there is older than the program that asks: replace it, and end the old one")
		}
		return e
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fault.Errorf(fault.Usage, "the request: something follows it")
	}
	return nil
}

// Answer sends a value as JSON.
func Answer(w http.ResponseWriter, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		WriteError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(text, '\n')) //nolint:errcheck // a write error means that the peer is gone
}

// Events is the answer to a request for events. Its reader may pause for as
// long as it likes.
type Events struct {
	w http.ResponseWriter
	c *http.ResponseController
}

// NewEvents begins the answer.
func NewEvents(w http.ResponseWriter) (*Events, error) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	e := &Events{w, http.NewResponseController(w)}
	return e, e.c.Flush()
}

// Send sends one event.
func (e *Events) Send(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	if _, err := e.w.Write(append(text, '\n')); err != nil {
		return err
	}
	return e.c.Flush()
}
