package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/witness"
)

// TestWitnessServe asks a witness that the command runs, until it is ended.
func TestWitnessServe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	in, out := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan int, 1)
	go func() {
		c := &CLI{Args: []string{"witness", "serve", dir, "--listen", "127.0.0.1:0", "--json"}, Stdin: strings.NewReader(""), Stdout: out, Stderr: io.Discard}
		ended <- c.Run(ctx)
		out.Close()
	}()
	line, err := bufio.NewReader(in).ReadString('\n')
	var w WitnessServed
	if err == nil {
		err = json.Unmarshal([]byte(line), &w)
	}
	if err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	token, err := os.ReadFile(w.Token)
	if err != nil || !strings.HasPrefix(w.URL, "http://127.0.0.1:") {
		t.Fatalf("%+v, %v", w, err)
	}
	c, err := witness.NewClient(w.URL, strings.TrimSpace(string(token)), w.Key)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to := witness.Point{Epoch: 1, Hash: strings.Repeat("a", 64)}
	if v, a, err := c.Tell(t.Context(), strings.Repeat("1", 32), nil, to); err != nil || v != witness.Kept || *a.Kept != to {
		t.Errorf("%s, %+v, %v", v, a, err)
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, args := range [][]string{
		{"witness", "serve", dir, "--listen", "nas:7443"},
		{"witness", "serve", dir, "--tls-cert", "x"},
		{"witness", "serve", dir, "--device", "ssh:nas"},
		{"witness", "add", "sql", "https://nas"},
	} {
		var out, errs bytes.Buffer
		if code := (&CLI{Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}).Run(t.Context()); code != int(fault.Usage) {
			t.Errorf("%q: exit code %d: %s", args, code, errs.String())
		}
	}
}

func TestWrittenSince(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	then := runtime.Continuity{Lineage: "l", Epoch: 12}
	for want, now := range map[string]*runtime.Witnessed{
		"what was written since 2026-11-30T12:00:00Z, in 1h30m0s (45 epochs of its disk), is not in it": {Continuity: runtime.Continuity{Lineage: "l", Epoch: 57}},
		"what was written since 2026-11-30T12:00:00Z, in 1h30m0s, is not in it":                         {Continuity: runtime.Continuity{Lineage: "other", Epoch: 57}},
	} {
		if got := writtenSince(runtime.Kept{Time: at, Continuity: &then}, now, at.Add(90*time.Minute)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := writtenSince(runtime.Kept{Time: at}, nil, at.Add(-time.Hour)); !strings.Contains(got, "since 2026-11-30T12:00:00Z, is not") {
		t.Errorf("a clock that was set back: %q", got)
	}
}
