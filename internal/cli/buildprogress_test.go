package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/sovereign-build/sovereign/internal/hints"
	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestBuildProgress(t *testing.T) {
	begin, end := time.Unix(1, 0), time.Unix(2, 0)
	step, input := digest.FromString("step"), digest.FromString("input")
	brief := &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: step, Name: "zlib 1.3", Started: &begin, Completed: &end}}}
	full := &client.SolveStatus{Vertexes: append([]*client.Vertex{{Digest: input, Name: "input zlib.tar", Started: &begin, Completed: &end}}, brief.Vertexes...)}
	events := []build.Event{
		build.StepMissed{Step: "port zlib amd64", Reason: "not built before"},
		build.StepStarted{Step: "port zlib amd64"},
		build.Fetching{Name: "zlib", Mirror: "https://example.org/z", Done: 1 << 20, Total: 2 << 20},
		build.Fetching{Name: "zlib", Mirror: "https://example.org/z", Done: 3 << 19, Total: 2 << 20},
		build.Fetched{Name: "zlib", Size: 2 << 20},
		build.Fetched{Name: lock.ToolchainName, Size: 2 << 20},
		build.EngineStatus{Status: engine.Status{Step: "zlib 1.3", Full: full, Brief: brief}},
		build.StepLog{Step: "port zlib amd64", Data: []byte("compiling\n")},
		build.StepDone{Step: "port zlib amd64"},
		build.StepCached{Step: "kernel amd64"},
		build.PartFailed{Part: "the kernel", Err: errors.New("\x1b[31mred\nsovereign-build: all is well")},
		build.LockRemark{Text: "lib: 1 is older than 2"},
		build.SumsLacking{Path: "sovereign.sums", Arch: "amd64"},
	}
	for mode, want := range map[string]string{
		"quiet": `sovereign-build: lib: 1 is older than 2
sovereign-build: sovereign.sums has nothing for amd64 to compare with; --write-sums writes it
`,
		"plain": `sovereign-build: port zlib amd64: not built before
sovereign-build: zlib: 1.0 MiB of 2.0 MiB from https://example.org/z
sovereign-build: zlib: fetched 2.0 MiB
sovereign-build: the kernel failed, what runs is finished and kept: [31mred
  sovereign-build: all is well
sovereign-build: lib: 1 is older than 2
sovereign-build: sovereign.sums has nothing for amd64 to compare with; --write-sums writes it
`,
	} {
		var out syncBuffer
		p, err := newBuildProgress(mode, &out)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			p.event(e)
		}
		if err := errors.Join(p.close(), p.close()); err != nil {
			t.Error(err)
		}
		var own strings.Builder
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "sovereign-build: ") || strings.HasPrefix(line, "  ") {
				own.WriteString(line)
			}
		}
		if own.String() != want {
			t.Errorf("%s:\n%s\nwant\n%s", mode, own.String(), want)
		}
		if mode == "plain" && (!strings.Contains(out.String(), "zlib 1.3") || strings.Contains(out.String(), "input zlib.tar")) {
			t.Errorf("the display shows\n%s", out.String())
		}
	}

	var out bytes.Buffer
	p, err := newBuildProgress("rawjson", &out)
	if err != nil {
		t.Fatal(err)
	}
	p.event(events[0])
	p.event(events[6])
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	var shown client.SolveStatus
	if err := json.Unmarshal(out.Bytes(), &shown); err != nil || len(shown.Vertexes) != 2 {
		t.Errorf("raw: %v\n%s", err, out.String())
	}
	if _, err := newBuildProgress("tty", &out); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a terminal's display without one: %v", err)
	}
}

// The commands on pkg/build itself, as far as it needs no network: a plan, and
// a lock that is looked at, is not there, and is let go of in part.
func TestWiredBuilder(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../recipes")); err != nil {
		t.Fatal(err)
	}
	sql := filepath.Join(dir, "sql")
	path := filepath.Join(sql, lock.FileName)
	request := BuildRequest{Recipe: sql, Arch: "amd64", CacheDir: t.TempDir(), Output: t.TempDir(), Offline: true, ProgressMode: "plain", Progress: t.Output()}
	plan, err := builder{}.Plan(t.Context(), request)
	if err != nil || len(plan.Reasons()) < 10 || plan.Reasons()[0] != "kernel config amd64: not built before" {
		t.Errorf("%+v, %v", plan, err)
	}

	locking := LockRequest{Recipe: sql, CacheDir: request.CacheDir, Progress: t.Output(), Check: true}
	r, err := builder{}.Lock(t.Context(), locking)
	if err != nil || r.Lock != path || r.Inputs < 10 {
		t.Errorf("%+v, %v", r, err)
	}
	// What is locked and not needed any more is let go of, and saved.
	f, err := lock.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	l := f.Lock()
	extra := l.Sources[0]
	extra.Name = "nobody-wants-it"
	l.Sources = append(l.Sources, extra)
	if err := f.Save(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	locking.Check = false
	if r, err = (builder{}).Lock(t.Context(), locking); err != nil || len(r.Changes) != 1 || !strings.Contains(r.Changes[0], "nobody-wants-it") {
		t.Errorf("%+v, %v", r, err)
	}
	if l, err = lock.Load(path); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Source("nobody-wants-it"); ok {
		t.Error("the lock was not saved")
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	locking.Check = true
	_, check := builder{}.Lock(t.Context(), locking)
	locking.Check, locking.Outdated = false, true
	_, outdated := builder{}.Outdated(t.Context(), locking)
	for _, err := range []error{check, outdated} {
		if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "there is no "+path) || hints.Of(err) != "make one: sovereign-build lock "+sql {
			t.Errorf("%v (%s)", err, fault.HintOf(err))
		}
	}
	if _, err := (builder{}).Build(t.Context(), request); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a build without a lock: %v", err)
	}
}

// syncBuffer is written to by the display and by who reports events.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
