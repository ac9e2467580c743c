package main

import (
	"io"
	"os"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	if os.Getenv("SOVEREIGN_E2E") == "" {
		t.Skip("SOVEREIGN_E2E is not set: this builds and boots an image; run make test-e2e")
	}
	var out strings.Builder
	if err := run(t.Context(), "välkommen <till> en egen maskin", io.MultiWriter(&out, t.Output())); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"virtio: ok", "no-android: ok", "answered 200 OK", "<p>välkommen &lt;till&gt; en egen maskin"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output has no %q", want)
		}
	}
}
