package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// maxAnswer bounds an answer, bytes; a manifest may be half of it.
	maxAnswer = 8 << 20
	// maxEvent bounds one event, bytes.
	maxEvent = 1 << 20
	// MaxRequest bounds a request's JSON text, bytes.
	MaxRequest = 64 << 10
	// base is the peer's URL; nobody looks its name up.
	base = "http://sovereignd"
)

// Call makes a request. in is sent as JSON, nil as nothing; the answer's JSON
// is read into out, which may be a *[]byte for text of any kind, or nil. A
// request that failed has the error that the peer gave, with its class and
// hint; one without an answer has ErrLost, of class fault.Device.
func (s *Session) Call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fault.Wrap(fault.Internal, err)
		}
		if len(text) > MaxRequest {
			return fault.Errorf(fault.Usage, "a request of %d bytes is longer than %d", len(text), MaxRequest)
		}
		body = bytes.NewReader(text)
	}
	resp, err := s.do(ctx, method, path, body, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch raw, isRaw := out.(*[]byte); {
	case err != nil:
		return lost(ctx, err)
	case len(text) > maxAnswer:
		return fault.Errorf(fault.Device, "sovereignd's answer to %s %s is longer than %d bytes", method, path, maxAnswer)
	case out == nil:
		return nil
	case isRaw:
		*raw = text
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fault.Errorf(fault.Device, "sovereignd's answer to %s %s: %w", method, path, err)
	}
	return nil
}

func (s *Session) do(ctx context.Context, method, path string, body io.Reader, prepare func(*http.Request)) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	if prepare != nil {
		prepare(req)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, lost(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

// Events reads the stream of events at path, a JSON text each, and gives them to
// each until that or ctx ends it. A peer that ends the stream in order gives
// io.EOF; one that is gone, ErrLost.
func (s *Session) Events(ctx context.Context, path string, each func(json.RawMessage) error) error {
	resp, err := s.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 16<<10), maxEvent)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := each(bytes.Clone(lines.Bytes())); err != nil {
			return err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fault.Errorf(fault.Device, "sovereignd sends an event of more than %d bytes", maxEvent)
	case err != nil:
		return lost(ctx, err)
	case ctx.Err() != nil:
		return fmt.Errorf("sovereignd: %w", context.Cause(ctx))
	}
	return io.EOF
}

// Upgrade opens a raw stream at path, with a POST.
func (s *Session) Upgrade(ctx context.Context, path string) (*Stream, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, nil)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", StreamProtocol)
	conn, err := s.mux.Open(ctx)
	if err != nil {
		return nil, lost(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	r := bufio.NewReaderSize(conn, muxhttp.MaxFrame)
	err = req.Write(conn)
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(r, req)
	}
	switch {
	case err != nil:
		err = lost(ctx, err)
	case resp.StatusCode != http.StatusSwitchingProtocols:
		err = readError(resp)
		resp.Body.Close()
	case !stop():
		err = lost(ctx, context.Cause(ctx))
	default:
		return newStream(conn, r), nil
	}
	stop()
	conn.Close()
	return nil, err
}
