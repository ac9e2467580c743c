package machine

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestStartErrors(t *testing.T) {
	taken := takenPort(t)
	tests := []struct {
		name  string
		as    string // its name; empty: the manifest's
		o     UpOptions
		alter func(f *fixture) error
		class fault.Class
		want  string
	}{
		{name: "port in use", o: UpOptions{Ports: map[int]int{5432: taken}}, class: fault.Environment, want: strconv.Itoa(taken)},
		{name: "unknown port", o: UpOptions{Ports: map[int]int{80: 0}}, class: fault.Usage, want: "no port 80"},
		{name: "port out of range", o: UpOptions{Ports: map[int]int{5432: 70000}}, class: fault.Usage, want: "70000"},
		{name: "port twice", o: UpOptions{Ports: map[int]int{5432: 4000, 9187: 4000}}, class: fault.Usage, want: "4000 is asked for twice"},
		{name: "name", as: "../x", class: fault.Usage, want: "../x"},
		{name: "memory", o: UpOptions{MemoryMiB: 1}, class: fault.Usage, want: "1 MiB"},
		{name: "cpus", o: UpOptions{CPUs: 100}, class: fault.Usage, want: "100"},
		{name: "no bundle", alter: func(f *fixture) error { return os.RemoveAll(f.bundle) }, class: fault.Usage, want: "not a bundle"},
		{name: "kernel damaged", alter: func(f *fixture) error {
			return os.WriteFile(filepath.Join(f.bundle, "bzImage"), []byte("rootkernex"), 0o644)
		}, class: fault.Verification, want: "bzImage: expected sha256:"},
		{name: "root cut", alter: func(f *fixture) error { return os.Truncate(filepath.Join(f.bundle, "root.img"), 1) }, class: fault.Verification, want: "root.img: expected 8 bytes, got 1"},
		{name: "hypervisor", class: fault.Device, want: "the fake ended"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t, "good")
			if tt.name == "hypervisor" {
				f.hv.Mode = "dead"
				f.open(t)
			} else if tt.alter != nil {
				if err := tt.alter(f); err != nil {
					t.Fatal(err)
				}
			}
			_, err := run(t.Context(), f.Runtime, f.bundle, tt.as, tt.o)
			if fault.ClassOf(err) != tt.class || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("class %d, %v", fault.ClassOf(err), err)
			}
			// And the next start works.
			f.hv.Mode = "good"
			f.open(t)
			writeBundle(t, f.bundle, "root")
			f.start(t, UpOptions{Ports: map[int]int{5432: 0}})
		})
	}
}

func TestPortsAsked(t *testing.T) {
	f := setup(t, "good")
	free, err := process.PortFree(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	i := f.start(t, UpOptions{Ports: map[int]int{9187: free}})
	if got, _ := i.HostPort(9187); got != free {
		t.Errorf("port %d, want %d", got, free)
	}
	if _, err := f.Start(t.Context(), f.bundle, UpOptions{Ports: map[int]int{9187: free + 1}}); fault.ClassOf(err) != fault.Usage {
		t.Errorf("another port while it runs: %v", err)
	}
	if _, err := f.Start(t.Context(), f.bundle, UpOptions{Ports: map[int]int{9187: free}}); err != nil {
		t.Errorf("the same port while it runs: %v", err)
	}
}

// A full file system at the data disk is told before anything is started.
func TestFullFileSystem(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	f := setup(t, "good")
	mountSmall(t, filepath.Join(f.state, "instances"))
	_, err := f.Start(t.Context(), f.bundle, UpOptions{})
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "full") || *f.hv.Starts != 0 {
		t.Errorf("got %v, %d starts", err, *f.hv.Starts)
	}
}

func TestDataDiskIsNeverReplaced(t *testing.T) {
	f := setup(t, "good")
	dir := filepath.Join(f.state, "instances", "sql")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, dataFile)
	if err := os.WriteFile(data, []byte("smaller than the manifest says"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start(t, UpOptions{})
	if b, err := os.ReadFile(data); err != nil || string(b) != "smaller than the manifest says" {
		t.Errorf("%.100q, %v", b, err)
	}
}

func TestDamagedRecord(t *testing.T) {
	f := setup(t, "good")
	i := f.start(t, UpOptions{})
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", `{"schema":9,"name":"sql"}`, `{"schema":1,"name":"../etc"}`, `{"schema":1,"name":"forge"}`, `{"schema":1,"name":"sql","colour":1}`} {
		if err := os.WriteFile(filepath.Join(i.Dir(), recordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Start(t.Context(), f.bundle, UpOptions{}); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), recordFile) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzRecord checks that no record makes the reader panic, and that what it
// accepts is usable.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"schema":1,"name":"sql","created":"2026-01-01T00:00:00Z","ports":[{"name":"p","guest":1,"host":2}],"process":{"pid":1,"start":2,"boot":"x"}}`))
	f.Add([]byte(`{"schema":1,"name":"sql","ports":[{"guest":-1}]}`))
	f.Add([]byte(`{"schema":2,"name":"sql","wanted":"up","active":"a","slot":"a","slots":{"a":{},"b":{}},"policy":{"restart":"always","limit":3},
"trial":{"kind":"update","slot":"b","limit_s":1.5,"attempt":1},"ends":{"total":2,"in_a_row":1,"last":{"time":"2026-01-01T00:00:00Z","why":"x"}}}`))
	f.Add([]byte(`{"schema":2,"name":"sql","wanted":"up","active":"c"}`))
	f.Add([]byte(`{"schema":3,"name":"sql","bundle":{"path":"/b","digest":"sha256:1"},"process":{"pid":1,"start":2,"boot":"x"}}`))
	f.Add([]byte(`{"schema":4,"name":"sql","wanted":"up","policy":{"restart":"never","limit":0},"process":{"pid":1,"start":2,"boot":"x"}}`))
	f.Add([]byte(`{"schema":4,"name":"sql"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := parseRecord("instance.json", b)
		if err != nil {
			if fault.ClassOf(err) != fault.Environment {
				t.Errorf("class %d: %v", fault.ClassOf(err), err)
			}
			return
		}
		if !nameForm.MatchString(rec.Name) {
			t.Errorf("accepted name %q", rec.Name)
		}
		if _, ok := rec.Slots[rec.Active]; rec.Wanted == Up && !ok && rec.Process == nil {
			t.Error("accepted one that is wanted up and that nothing could start")
		}
		decide(&rec, world{boot: "now"})
	})
}

func mountSmall(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// What a run is told holds for it alone; what an up is told stays.
func TestApply(t *testing.T) {
	off := false
	in := installed{Options: Options{MemoryMiB: 1024, CPUs: 4, Ports: map[int]int{5432: 15432}, Accel: "tcg", Outbound: true}}
	in.apply(UpOptions{CPUs: 2})
	if o := in.Options; o.MemoryMiB != 1024 || o.CPUs != 2 || o.Ports[5432] != 15432 || !o.Outbound {
		t.Errorf("up: %+v", o)
	}
	in.apply(UpOptions{Replace: true, Accel: "auto", Outbound: &off, Ports: map[int]int{9187: 19187}})
	if o := in.Options; o.MemoryMiB != 0 || o.CPUs != 0 || len(o.Ports) != 1 || o.Ports[9187] != 19187 || o.Accel != "auto" || o.Outbound {
		t.Errorf("run: %+v", o)
	}
}
