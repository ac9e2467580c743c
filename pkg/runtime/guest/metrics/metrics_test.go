package metrics

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWrite(t *testing.T) {
	status := agent.Status{State: agent.StateReady, UptimeMS: 12500, BootMS: 2750, Clock: agent.ClockNTP, Data: &agent.Data{Size: 1 << 30, Free: 1 << 20},
		Services: []agent.Service{{Name: "db", Healthy: true, Restarts: 3}, {Name: `odd"name`}}}
	s := Source{Status: status,
		Proc: tree(t, map[string]string{
			"meminfo":         "MemTotal:         500 kB\nMemFree: 1 kB\nMemAvailable:     250 kB\nnonsense\n",
			"loadavg":         "0.50 0.25 0.12 1/80 500\n",
			"pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n",
		}),
		Cgroups: tree(t, map[string]string{"db/memory.current": "4096\n", "db/cpu.stat": "usage_usec 2500000\nuser_usec 1\n"})}
	var b strings.Builder
	if err := Write(&b, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"sovereign_up 1\n", "sovereign_uptime_seconds 12.5\n", "sovereign_boot_seconds 2.75\n",
		"sovereign_clock_set{source=\"ntp\"} 1\n", "sovereign_clock_set{source=\"rtc\"} 0\n",
		"sovereign_data_free_bytes 1.048576e+06\n",
		"sovereign_service_up{service=\"db\"} 1\n", "sovereign_service_up{service=\"odd\\\"name\"} 0\n",
		"sovereign_service_restarts_total{service=\"db\"} 3\n",
		"sovereign_service_memory_bytes{service=\"db\"} 4096\n", "sovereign_service_cpu_seconds_total{service=\"db\"} 2.5\n",
		"sovereign_memory_total_bytes 512000\n", "sovereign_memory_available_bytes 256000\n",
		"sovereign_load1 0.5\n", "sovereign_load15 0.12\n",
		"sovereign_pressure_seconds_total{resource=\"memory\",tasks=\"some\"} 1.5\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if n := strings.Count(b.String(), "# TYPE sovereign_pressure"); n != 1 {
		t.Errorf("%d types of one family", n)
	}
}

// Every family is declared once, on a real kernel too.
func TestFamilies(t *testing.T) {
	var b strings.Builder
	if err := Write(&b, Source{Proc: "/proc", Cgroups: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.SplitSeq(b.String(), "\n") {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			if seen[name] {
				t.Errorf("twice: %s", name)
			}
			seen[name] = true
		}
	}
	if !seen["sovereign_memory_total_bytes gauge"] {
		t.Errorf("no memory in\n%s", b.String())
	}
}
