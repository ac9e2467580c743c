package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// RestoredService is what a service found in a machine that was restored.
type RestoredService struct {
	// Checked: it has a command for this, and Error is what that found wrong;
	// empty where nothing is.
	Checked bool   `json:"checked,omitempty"`
	Error   string `json:"error,omitempty"`
	TookMS  int64  `json:"took_ms,omitempty"`
	// Marks is what its marks command prints now, MarksError why it does not.
	Marks      string `json:"marks,omitempty"`
	MarksError string `json:"marks_error,omitempty"`
}

// A RestoreChecker is a Backend whose services can say whether what they found
// is whole. The endpoint for it is absent (404) where a Backend is none.
type RestoreChecker interface {
	// CheckRestored asks those services that have something to say, by name.
	CheckRestored(ctx context.Context) (map[string]RestoredService, error)
}

// checkBeat is how often the host is told that the checks go on.
const checkBeat = 5 * time.Second

// restored is a request that takes as long as the services do: an empty line at
// every beat, and then the answer. With the request the checks end.
func (h *handler) restored(w http.ResponseWriter, r *http.Request, b RestoreChecker) {
	type answer struct {
		found map[string]RestoredService
		err   error
	}
	ready := make(chan answer, 1)
	over := make(chan struct{})
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		found, err := b.CheckRestored(ctx)
		ready <- answer{found, err}
		close(over)
	}()
	w.Header().Set("Content-Type", follows)
	c := http.NewResponseController(w)
	for {
		if !waitFor(r, over, checkBeat) {
			<-over
			return
		}
		text := []byte("\n")
		select {
		case a := <-ready:
			// Nothing was sent that says otherwise: an error ends the answer short.
			line, err := json.Marshal(a.found)
			if a.err != nil || err != nil {
				panic(http.ErrAbortHandler)
			}
			if c.SetWriteDeadline(time.Now().Add(bodyLimit)) == nil {
				w.Write(append(line, '\n')) //nolint:errcheck // a write error means that the host is gone
			}
			return
		default:
		}
		_, err := w.Write(text)
		if err != nil || c.SetWriteDeadline(time.Now().Add(bodyLimit)) != nil || c.Flush() != nil {
			cancel()
			<-over
			panic(http.ErrAbortHandler) // the host is gone
		}
	}
}

// maxRestored bounds the answer, in bytes.
const maxRestored = 4 << 20

// CheckRestored has the services of a machine that was restored say whether what
// they found is whole, for as long as that takes.
func (c *Client) CheckRestored(ctx context.Context) (map[string]RestoredService, error) {
	resp, err := c.do(ctx, http.MethodPost, "/v1/restored", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxRestored)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var found map[string]RestoredService
		if err := json.Unmarshal(line, &found); err != nil {
			return nil, fault.Errorf(fault.Device, "guest agent: checks: %w", err)
		}
		return found, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, fault.Errorf(fault.Device, "guest agent: the checks were ended before they were done").Hintf("see whether the guest still runs")
}
