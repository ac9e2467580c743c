package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxError bounds the answer of a request that failed, bytes. The end of a
// console may be in it.
const maxError = 64 << 10

// failure is an error as it is sent.
type failure struct {
	Class fault.Class `json:"class"`
	Text  string      `json:"error"`
	Hint  string      `json:"hint,omitempty"`
}

// classes are those that are sent; another, of a newer side, is taken for
// fault.Device.
func known(c fault.Class) bool {
	switch c {
	case fault.Internal, fault.Usage, fault.Environment, fault.Source, fault.Step, fault.Verification, fault.Differ, fault.Device, fault.Stale, fault.Cancelled:
		return true
	}
	return false
}

// WriteError answers a request with an error: its class, its words and its
// hint.
func WriteError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch fault.ClassOf(err) {
	case fault.Usage:
		status = http.StatusBadRequest
	case fault.Verification:
		status = http.StatusUnprocessableEntity
	case fault.Environment:
		status = http.StatusInsufficientStorage
	case fault.Stale:
		status = http.StatusConflict
	case fault.Device:
		status = http.StatusBadGateway
	}
	WriteErrorStatus(w, status, err)
}

// WriteErrorStatus does so with a status of the caller's.
func WriteErrorStatus(w http.ResponseWriter, status int, err error) {
	f := failure{fault.ClassOf(err), err.Error(), fault.HintOf(err)}
	f.Text = f.Text[:min(len(f.Text), maxError/8)] // escaped it is six times as long at most
	f.Hint = f.Hint[:min(len(f.Hint), 4<<10)]
	text, _ := json.Marshal(f) // of strings and a number
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(text, '\n')) //nolint:errcheck // the peer is gone, and sees no answer
}

// ErrAbsent is in the error for an endpoint that the peer does not have.
var ErrAbsent = errors.New("the sovereignd there cannot do this")

// readError reads the error that is a response's body.
func readError(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return lost(resp.Request.Context(), err)
	}
	return parseError(resp.StatusCode, text)
}

// words are the peer's.
type words struct {
	text   string
	status int
}

func (w *words) Error() string { return w.text }

// Is makes the one status that means something of its own an error of its own.
func (w *words) Is(target error) bool {
	return target == ErrOffset && w.status == http.StatusConflict //nolint:errorlint // it is what errors.Is asks
}

func parseError(status int, text []byte) error {
	var f failure
	if json.Unmarshal(text, &f) == nil && f.Text != "" {
		if !known(f.Class) {
			f.Class = fault.Device
		}
		return &fault.Error{Class: f.Class, Err: &words{f.Text, status}, Hint: f.Hint}
	}
	if status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		return fault.Errorf(fault.Environment, "%w: it is older than this program", ErrAbsent).
			Hintf("replace it by the sovereignd that belongs to this program, and end the old one")
	}
	words := strings.TrimSpace(string(text[:min(len(text), 4<<10)]))
	return fault.Errorf(fault.Device, "sovereignd answers %d %s: %s", status, http.StatusText(status), words)
}

// ErrLost is in the error of a request whose session ended before its answer:
// whether it was done is not known.
var ErrLost = errors.New("the connection to sovereignd was lost")

// lost is the error of a request that has no whole answer.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("sovereignd: %w", context.Cause(ctx))
	}
	return fault.Errorf(fault.Device, "%w: %w", ErrLost, err).
		Hintf("see whether it is done, with sovereign-build status, and do it again where it is not")
}
