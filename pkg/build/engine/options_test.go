package engine

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestBadOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		opt  Option
		want string
	}{
		{"scheme", WithAddress("http://x"), "SCHEME://"},
		{"no host", WithAddress("tcp://"), "SCHEME://"},
		{"plain tcp", WithAddress("tcp://build.example.org:1234"), "no certificates"},
		{"cache limit", WithCacheLimit(1), "at least"},
		{"timeout", WithStepTimeout(0), "more than 0"},
		{"cache without type", WithCacheImport("ref=x"), "no type"},
		{"cache twice", WithCacheImport("type=local,src=a,src=b"), "src is there twice"},
		{"cache word", WithCacheExport("type=local,src"), "not key=value"},
		{"cache empty", WithCacheExport(""), "not a list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Start(t.Context(), c.opt, WithStateDir(t.TempDir()))
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != fault.Usage {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	for _, address := range []string{"", "unix:///run/x.sock", "tcp://127.0.0.1:1234", "kube-pod://builder-0?namespace=ci", "ssh://build@host"} {
		if err := checkAddress(address, TLS{}); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	e, err := Start(t.Context(), WithCacheImport("type=registry,ref=registry.example.org/x"), WithStateDir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if got := e.opts.cacheImport[0]; got.Type != "registry" || got.Attrs["ref"] != "registry.example.org/x" {
		t.Errorf("got %+v", got)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestBadSteps(t *testing.T) {
	digest := store.FromBytes([]byte("x"))
	good := Step{Name: "x", Base: Image{Digest: digest}, Script: "true", Output: "/out"}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want   string
		change func(*Step)
	}{
		{"no name", func(s *Step) { s.Name = "" }},
		{"no script", func(s *Step) { s.Script = "" }},
		{"pass long texts as inputs", func(s *Step) { s.Script = strings.Repeat("x", maxScript+1) }},
		{"base image digest", func(s *Step) { s.Base.Digest = "latest" }},
		{"output", func(s *Step) { s.Output = "out" }},
		{"output", func(s *Step) { s.Output = "/" }},
		{"want a clean absolute path", func(s *Step) { s.Inputs = []Input{{Dest: "/a/../b", Digest: digest}} }},
		{"another mount", func(s *Step) { s.Inputs = []Input{{Dest: "/work", Digest: digest}} }},
		{"want a clean absolute path", func(s *Step) { s.Dir = "work" }},
		{"another mount", func(s *Step) { s.Inputs = []Input{{Dest: "/a", Digest: digest}, {Dest: "/a", Digest: digest}} }},
		{"digest", func(s *Step) { s.Inputs = []Input{{Dest: "/a"}} }},
		{"KEY=VALUE", func(s *Step) { s.Env = []string{"KEY"} }},
	} {
		s := good
		c.change(&s)
		if err := s.check(); err == nil || !strings.Contains(err.Error(), c.want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// TestRemoteUnreachable: the address is in the message, the way out in the hint.
func TestRemoteUnreachable(t *testing.T) {
	base := busyboxImage(t)
	e, err := Start(t.Context(), WithAddress("unix:///nonexistent/buildkitd.sock"), WithStateDir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	_, err = run(t.Context(), e, Step{Name: "x", Base: base, Script: "true"})
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "/nonexistent/buildkitd.sock") {
		t.Errorf("got %v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestLogNames(t *testing.T) {
	for step, want := range map[string]string{
		"zlib 1.3.1 (arm64)": "zlib-1.3.1-arm64.log",
		"../../etc/passwd":   "etc-passwd.log",
		"Ünïcode":            "n-code.log",
		"...":                "step.log",
	} {
		if got := logName(step); got != want {
			t.Errorf("%q: got %s, want %s", step, got, want)
		}
	}
}

func TestTail(t *testing.T) {
	var also bytes.Buffer
	l := newStepLog(t.TempDir(), "x", &also)
	for _, part := range []string{"one\ntw", "o\n", "10%\r50%\r100%\r\n", strings.Repeat("x", 2*maxTailLine) + "\n", "end"} {
		if err := l.write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.close(true); err != nil {
		t.Fatal(err)
	}
	want := []string{"one", "two", "100%", strings.Repeat("x", maxTailLine), "end"}
	if strings.Join(l.tail, "|") != strings.Join(want, "|") {
		t.Errorf("got %q", l.tail)
	}
	if text, err := os.ReadFile(l.path); err != nil || !bytes.Equal(text, also.Bytes()) || len(text) == 0 {
		t.Errorf("the log has %d bytes, who listens got %d: %v", len(text), also.Len(), err)
	}
}
