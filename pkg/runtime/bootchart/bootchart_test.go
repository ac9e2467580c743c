package bootchart

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample() agent.Boot {
	return agent.Boot{Phases: []agent.Phase{
		{Name: "kernel", StartMS: 0, EndMS: 812.34},
		{Name: "mounts", StartMS: 812.34, EndMS: 820},
		{Name: "data disk", StartMS: 820, EndMS: 901.5},
		{Name: "postgresql: setup", StartMS: 901.5, EndMS: 1000},
		{Name: "network", StartMS: 850, EndMS: 860},
		{Name: "postgresql: until healthy", StartMS: 1000, EndMS: 1840.2},
		{Name: `tailscale: "<&>"`, StartMS: 1500},
	}}
}

func TestGolden(t *testing.T) {
	var text, image strings.Builder
	if err := errors.Join(Text(&text, sample(), 80), SVG(&image, "boot of sql", sample())); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"chart.txt": text.String(), "chart.svg": image.String()} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || string(want) != got {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	for line := range strings.Lines(text.String()) {
		if n := len([]rune(line)) - 1; n != 80 {
			t.Errorf("%d characters: %s", n, line)
		}
	}
}

func TestTicks(t *testing.T) {
	tests := []struct {
		end  float64
		n    int
		want []float64
	}{
		{0, 5, []float64{0}},
		{1840.2, 9, []float64{0, 500, 1000, 1500}},
		{100, 6, []float64{0, 20, 40, 60, 80, 100}},
		{0.5, 2, []float64{0, 0.5}},
	}
	for _, tt := range tests {
		if got := ticks(tt.end, tt.n); !slices.Equal(got, tt.want) {
			t.Errorf("%v, %d: %v", tt.end, tt.n, got)
		}
	}
}

// FuzzChart checks that whatever a guest says is drawn: no panic, nothing that
// drives a terminal, well-formed XML, few ticks.
func FuzzChart(f *testing.F) {
	seed, err := json.Marshal(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, 80)
	f.Add([]byte(`{"phases":[{"name":"\u001b[2J","start_ms":1e300,"end_ms":-1}]}`), 0)
	f.Add([]byte(`{"phases":[{"name":"\ufffe","start_ms":5e-324,"end_ms":1e-320}]}`), -5)
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		var b agent.Boot
		if json.Unmarshal(data, &b) != nil {
			return
		}
		var text, image strings.Builder
		if err := Text(&text, b, min(width, 1000)); err != nil || strings.ContainsRune(text.String(), 0x1b) {
			t.Errorf("%v: %q", err, text.String())
		}
		if err := SVG(&image, "x", b); err != nil {
			t.Error(err)
		}
		d := xml.NewDecoder(strings.NewReader(image.String()))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, image.String())
			}
		}
		if _, end := rows(b); len(ticks(end, 9)) > 9 || math.IsInf(end, 0) {
			t.Errorf("%d ticks up to %v", len(ticks(end, 9)), end)
		}
	})
}
