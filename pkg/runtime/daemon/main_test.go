package daemon

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/sovereignd"
)

// What sovereignd says last is in its log when it has ended.
func TestLastWords(t *testing.T) {
	dir := t.TempDir()
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var errs bytes.Buffer
		if code := Main(ctx, []string{"--state-dir", dir}, nil, io.Discard, &errs); code != 0 && errs.Len() == 0 {
			t.Fatalf("exit %d without a word", code)
		}
		text, err := os.ReadFile(filepath.Join(dir, sovereignd.LogFile))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, "ends") {
			t.Fatalf("the last line is %q", last)
		}
	}
}
