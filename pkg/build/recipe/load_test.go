package recipe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

const good = "testdata/recipe"

func TestLoad(t *testing.T) {
	for _, path := range []string{good, filepath.Join(good, FileName)} {
		r, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if r.Path != filepath.Join(good, FileName) || !filepath.IsAbs(r.Dir) {
			t.Errorf("path %q, dir %q", r.Path, r.Dir)
		}
		if r.VM != (VM{Memory: 512 * MiB, CPUs: 2, Data: 8 * GiB}) {
			t.Errorf("vm %+v", r.VM)
		}
		wantFiles := []File{
			{Path: "/etc/motd", Content: "hello\n", Mode: "0644", User: "root"},
			{Path: "/usr/lib/web/setup", From: "setup.sh", Mode: "0755", User: "root"},
			{Path: "/srv", Directory: true, Mode: "0755", User: "web"},
			{Path: "/etc/localtime", Link: "/usr/share/zoneinfo/UTC", User: "root"},
		}
		if d := cmp.Diff(wantFiles, r.Files); d != "" {
			t.Error(d)
		}
		want := []string{"base.config", "arm64.config"}
		if d := cmp.Diff(want, r.Fragments("arm64")); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(want[:1], r.Fragments("amd64")); d != "" {
			t.Error(d)
		}
	}
}

func TestSpec(t *testing.T) {
	r, err := Load(good)
	if err != nil {
		t.Fatal(err)
	}
	want := spec.Spec{
		Schema: 1,
		Name:   "demo",
		Data:   spec.Data{Serial: "data", FileSystem: "ext4", Mount: "/data"},
		Services: []spec.Service{{
			Name: "log", User: "log", Command: []string{"/usr/bin/log"},
			Stop:   spec.Stop{Signal: "TERM", Seconds: 30},
			Health: spec.Health{Command: []string{"/usr/bin/true"}, IntervalSeconds: 10, TimeoutSeconds: 5, Failures: 3},
			Limits: spec.Limits{PIDs: 512},
		}, {
			Name: "web", User: "web", Environment: map[string]string{"LC_ALL": "C"}, After: []string{"log"},
			Directories: []spec.Directory{{Path: "/data/web", Mode: "0700"}, {Path: "/run/web", Mode: "0755"}},
			Secrets:     []spec.Secret{{Name: "password", Bytes: 24}},
			Setup:       [][]string{{"/usr/lib/web/setup", "now"}},
			Command:     []string{"/usr/bin/web", "-p", "80"},
			Reload:      []string{"/usr/bin/web", "reload"},
			Stop:        spec.Stop{Signal: "INT", Seconds: 60},
			Health:      spec.Health{Command: []string{"/usr/bin/web", "check"}, Starting: []int{1}, IntervalSeconds: 5, TimeoutSeconds: 2, Failures: 4},
			Limits:      spec.Limits{OpenFiles: 4096, MemoryMiB: 128, PIDs: 512, OOMScoreAdj: -500},

			Certificates: []spec.Certificate{{Name: "server", Hosts: []string{"localhost", "127.0.0.1", "*.example.org"}}},
			Optional:     true,
			Backup: &spec.Backup{Before: []string{"/usr/bin/web", "sync"}, Marks: []string{"/usr/bin/web", "count"}, Identity: []string{"/data/web/node"},
				Check: []string{"/usr/bin/web", "check", "--all"}},
		}, {
			Name: "vpn", User: "root", Command: []string{"/usr/bin/vpn"},
			Capabilities: []string{"NET_ADMIN", "NET_RAW"}, Devices: []string{"/dev/net/tun"}, Limits: spec.Limits{PIDs: 100},
			Secrets: []spec.Secret{{Name: "key", Given: true}},
			Stop:    spec.Stop{Signal: "TERM", Seconds: 30},
			Health:  spec.Health{Command: []string{"/usr/bin/true"}, IntervalSeconds: 10, TimeoutSeconds: 5, Failures: 3},
		}},
	}
	if d := cmp.Diff(want, r.Spec()); d != "" {
		t.Error(d)
	}
	ports := []bundle.Port{{Name: "http", Service: "web", Port: 80, URL: "http://web:${secret:password}@${address}/"}}
	if d := cmp.Diff(ports, r.BundlePorts()); d != "" {
		t.Error(d)
	}
}

func TestLoadPorts(t *testing.T) {
	ports, err := LoadPorts(Ref{Name: filepath.Join(good, "ports")})
	if err != nil {
		t.Fatal(err)
	}
	if len(ports) != 3 || ports["zlib"] == nil || ports["zlib"] != ports["zlib-dev"] {
		t.Errorf("ports %v", ports)
	}
	needs := ports["web"].Needs(ports)
	if len(needs) != 1 || needs[0].Name != "zlib" {
		t.Errorf("web needs %v", needs)
	}
	sources, err := LoadSources(Ref{Name: filepath.Join(good, "sources.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	if sources["zlib"].Name != "zlib" || sources["linux"].Series != "6.12" {
		t.Errorf("sources %v", sources)
	}
	if err := ports["zlib"].CheckSources(sources); err != nil {
		t.Error(err)
	}
	delete(sources, "zlib")
	got := ports["zlib"].CheckSources(sources)
	want := `testdata/recipe/ports/zlib/port.yaml:6:11: unknown source "zlib", known are linux`
	if got == nil || got.Error() != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

// wantFault checks class and text; a message is what a person gets, so it is
// compared whole.
func wantFault(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if err.Error() != want {
		t.Errorf("\ngot  %s\nwant %s", err, want)
	}
	if fault.ClassOf(err) != fault.Usage {
		t.Errorf("class %d, want usage", fault.ClassOf(err))
	}
}

// broken copies the good recipe with one piece of text replaced.
func broken(t *testing.T, file, old, new string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, file)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(data), old) != 1 {
		t.Fatalf("%q is %d times in %s", old, strings.Count(string(data), old), file)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestUnits(t *testing.T) {
	sizes := map[string]Size{"1KiB": KiB, "512MiB": 512 * MiB, "8GiB": 8 * GiB, "2TiB": 2 * TiB, "0MiB": 0}
	for in, want := range sizes {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err != nil || s != want {
			t.Errorf("%s: %d, %v", in, s, err)
		}
		var again Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s: %s is read as %d, %v", in, s, again, err)
		}
	}
	bad := map[string]string{
		"":                      `"" is not a size, write a whole number with KiB, MiB, GiB or TiB like "512MiB"`,
		"MiB":                   `"MiB" is not a size, write a whole number with KiB, MiB, GiB or TiB like "512MiB"`,
		"-1MiB":                 `"-1MiB" is not a size, write a whole number with KiB, MiB, GiB or TiB like "512MiB"`,
		"+1MiB":                 `"+1MiB" is not a size, write a whole number with KiB, MiB, GiB or TiB like "512MiB"`,
		"1.5GiB":                `"1.5GiB" is not a size, write a whole number with KiB, MiB, GiB or TiB like "512MiB"`,
		"512":                   `size "512" has no unit, write KiB, MiB, GiB or TiB like "512MiB"`,
		"512MB":                 `size "512MB" has the unit "MB", did you mean "512MiB"?`,
		"8g":                    `size "8g" has the unit "g", did you mean "8GiB"?`,
		"3pages":                `size "3pages" has the unknown unit "pages", write KiB, MiB, GiB or TiB`,
		"9000000000GiB":         `size "9000000000GiB" is too large`,
		"99999999999999999999B": `size "99999999999999999999B" is too large`,
	}
	for in, want := range bad {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("%s:\ngot  %v\nwant %s", in, err, want)
		}
	}
	var d Duration
	if err := d.UnmarshalText([]byte("1m30s")); err != nil || d != Duration(90*time.Second) || d.String() != "1m30s" {
		t.Errorf("1m30s: %v, %v", d, err)
	}
	if err := d.UnmarshalText([]byte("ten")); err == nil || err.Error() != `"ten" is not a duration, write a number with s, m or h like "30s"` {
		t.Errorf("ten: %v", err)
	}
}
