package witnesses

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
	"github.com/sovereign-build/sovereign/pkg/witness"
)

func TestMain(m *testing.M) {
	machinetest.Main()
	os.Exit(m.Run())
}

// TestJudge goes through the table in the package comment.
func TestJudge(t *testing.T) {
	at := func(epoch uint64) *point { return &point{Epoch: epoch, Hash: strings.Repeat("a", 64)} }
	disk := func(v continuity.Verdict, oldest uint64) agent.Compared {
		return agent.Compared{Verdict: v, Oldest: oldest}
	}
	for name, c := range map[string]struct {
		m       memory
		k       *point
		disk    agent.Compared
		givenUp bool
		want    judgement
	}{
		"a new witness":                             {want: tell},
		"it has forgotten":                          {m: memory{signed: at(5)}, want: older},
		"as it was":                                 {m: memory{signed: at(5)}, k: at(5), disk: disk(continuity.Ahead, 1), want: tell},
		"its answer was lost":                       {m: memory{signed: at(5), told: at(6)}, k: at(6), disk: disk(continuity.Equal, 1), want: tell},
		"what was known here is lost":               {k: at(5), disk: disk(continuity.Ahead, 1), want: tell},
		"put back, and of this history":             {m: memory{signed: at(7)}, k: at(5), disk: disk(continuity.Ahead, 1), want: older},
		"put back to what was long ago":             {m: memory{signed: at(700)}, k: at(5), disk: disk(continuity.Forked, 444), want: older},
		"away for long":                             {m: memory{signed: at(5)}, k: at(5), disk: disk(continuity.Forked, 444), want: tell},
		"away for long, its last answer was lost":   {m: memory{signed: at(4), told: at(5)}, k: at(5), disk: disk(continuity.Forked, 444), want: tell},
		"long ago, and nothing is known here":       {k: at(5), disk: disk(continuity.Forked, 444), want: tell},
		"long ago, and another told it":             {m: memory{signed: at(4)}, k: at(9), disk: disk(continuity.Forked, 444), want: hold},
		"an older disk":                             {m: memory{signed: at(57)}, k: at(57), disk: disk(continuity.Behind, 1), want: hold},
		"an older disk, and all that was known":     {m: memory{signed: at(12)}, k: at(57), disk: disk(continuity.Behind, 1), want: hold},
		"a copy that was written on":                {m: memory{signed: at(57)}, k: at(57), disk: disk(continuity.Forked, 1), want: hold},
		"a copy runs elsewhere":                     {m: memory{signed: at(57)}, k: at(58), disk: disk(continuity.Forked, 1), want: hold},
		"another machine's":                         {k: at(5), disk: disk(continuity.Foreign, 1), want: hold},
		"restored by its owner":                     {m: memory{signed: at(57)}, k: at(57), disk: disk(continuity.Behind, 1), givenUp: true, want: supersede},
		"restored, and written on":                  {m: memory{signed: at(57)}, k: at(57), disk: disk(continuity.Forked, 1), givenUp: true, want: supersede},
		"restored, and goes on behind it":           {m: memory{signed: at(57)}, k: at(57), disk: disk(continuity.Ahead, 1), givenUp: true, want: tell},
		"an older disk, and the witness older, too": {m: memory{signed: at(57)}, k: at(40), disk: disk(continuity.Behind, 1), want: hold},
		"its record cannot be read":                 {k: at(5), disk: disk(continuity.Unreadable, 0), want: hold},
	} {
		if got := judge(c.m, c.k, c.disk, c.givenUp); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

const token = "the token of this device"

// fixture is a machine whose guest keeps a history, its keeper, and a witness.
type fixture struct {
	*machine.Runtime
	m    *Manager
	w    *witness.Witness
	dir  string // the witness's
	srv  *httptest.Server
	mu   sync.Mutex
	said []string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{dir: filepath.Join(t.TempDir(), "w")}
	r, err := machine.Open(filepath.Join(t.TempDir(), "state"), machine.WithHypervisor(machinetest.New("history")), machine.WithSoak(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	f.Runtime = r
	f.serve(t, "127.0.0.1:0")
	f.m = New(r, Options{Report: func(_, text string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.said = append(f.said, text)
	}, Changed: func(string) {}})
	bundle := filepath.Join(t.TempDir(), "sql")
	machinetest.WriteBundle(t, bundle, "one", "fake=history")
	if _, err := r.Install(t.Context(), bundle, "sql", machine.UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		i, err := r.Instance(context.Background(), "sql")
		if err == nil {
			_, err = i.Stop(context.Background(), 0)
		}
		if err != nil {
			t.Error(err)
		}
	})
	return f
}

// serve lets the witness answer, at the same address again.
func (f *fixture) serve(t *testing.T, at string) {
	t.Helper()
	var err error
	if f.w, err = witness.New(f.dir); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", at)
	if err != nil {
		t.Fatal(err)
	}
	f.srv = httptest.NewUnstartedServer(f.w.Handler([]string{token}, nil))
	f.srv.Listener.Close()
	f.srv.Listener = l
	f.srv.Start()
	srv, w := f.srv, f.w
	t.Cleanup(func() {
		srv.Close()
		_ = w.Close() // or it was
	})
}

// put puts what the witness had before in its directory's place.
func (f *fixture) put(t *testing.T, from string) {
	t.Helper()
	address := f.srv.Listener.Addr().String()
	f.srv.Close()
	err := errors.Join(f.w.Close(), os.RemoveAll(f.dir))
	if err == nil {
		err = os.CopyFS(f.dir, os.DirFS(from))
	}
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, address)
}

// settle does what a keeper and the manager do, until the machine is as it is
// wanted, or held, and there is nothing more to tell.
func (f *fixture) settle(t *testing.T) runtime.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		i, err := f.Instance(ctx, "sql")
		if err != nil {
			t.Fatal(err)
		}
		seen := machine.Seen{}
		status, err := i.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		h, err := f.History(ctx, "sql")
		if err != nil {
			t.Fatal(err)
		}
		if seen.Process, seen.Guest = h.Process, status.Guest; machine.Healthy(status.Guest) {
			seen.Healthy = time.Hour
		}
		step, err := f.Step(ctx, "sql", seen)
		if err != nil {
			t.Fatal(err)
		}
		f.m.round(ctx)
		f.m.asking.Wait()
		after, err := f.History(ctx, "sql")
		if err != nil {
			t.Fatal(err)
		}
		idle := step.Did == "" && status.Guest != nil && !after.Busy && after.Process == h.Process && after.Last != nil && h.Last != nil && *after.Last == *h.Last
		if idle && f.asked(after) {
			return status
		}
		if err := pause.For(ctx, 5*time.Millisecond); err != nil {
			t.Fatalf("not settled: %+v, %q", h, f.words())
		}
	}
}

// asked says whether each witness was told of that, or failed.
func (f *fixture) asked(h machine.History) bool {
	f.m.knownMu.Lock()
	defer f.m.knownMu.Unlock()
	for key, k := range f.m.known {
		want := point{Epoch: h.Last.Epoch, Hash: h.Last.Hash}
		if !strings.Contains(key, " ") { // the repository
			want = point{}
		}
		failed := k.class == fault.Source || k.class == fault.Verification
		if !failed && (k.process != h.Process || k.told != want) {
			return false
		}
	}
	return true
}

func (f *fixture) words() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.said, "\n")
}

func (f *fixture) add(t *testing.T) {
	t.Helper()
	if key, err := f.m.Add(t.Context(), "sql", f.srv.URL, token, ""); err != nil || key != f.w.Verifier {
		t.Fatalf("%q, %v", key, err)
	}
}

func (f *fixture) down(t *testing.T) {
	t.Helper()
	i, err := f.Instance(t.Context(), "sql")
	if err == nil {
		_, err = i.Stop(t.Context(), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.m.round(t.Context())
	f.m.asking.Wait()
}

// up starts the machine, and has a record written and told.
func (f *fixture) up(t *testing.T) runtime.Status {
	t.Helper()
	if _, err := f.Up(t.Context(), "sql", machine.UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	return f.settle(t)
}

// instance is the machine's directory, where all that its host knows of it is.
func (f *fixture) instance() string { return filepath.Join(f.Dir(), "instances", "sql") }

// saved copies what a machine and its host know, and gives back how to put it in
// its place.
func saved(t *testing.T, dir string, names ...string) (putBack func()) {
	t.Helper()
	to := t.TempDir()
	for _, name := range names {
		if err := copyAny(filepath.Join(to, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for _, name := range names {
			err := os.RemoveAll(filepath.Join(dir, name))
			if err == nil {
				err = copyAny(filepath.Join(dir, name), filepath.Join(to, name))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func copyAny(to, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.CopyFS(to, os.DirFS(from))
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}

func (f *fixture) keeps(t *testing.T) *point {
	t.Helper()
	list, err := f.m.Ask(t.Context(), "sql")
	if err != nil || len(list) != 1 || list[0].Trouble != "" {
		t.Fatalf("%+v, %v", list, err)
	}
	if list[0].Keeps == nil {
		return nil
	}
	return &point{Epoch: list[0].Keeps.Epoch, Hash: list[0].Keeps.Hash}
}

// held checks that services are held, and that it is said what is lost and who
// says so.
func (f *fixture) held(t *testing.T, s runtime.Status, words ...string) {
	t.Helper()
	err := s.Stale()
	if fault.ClassOf(err) != fault.Stale {
		t.Fatalf("it goes on: %+v; %s", s.Guest, f.words())
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in %q", w, err)
		}
	}
}

// The whole instance was put back, record, disk and what is known of witnesses:
// nobody here can know, and the witness does.
func TestInstancePutBack(t *testing.T) {
	f := newFixture(t)
	f.add(t)
	f.up(t)
	first := f.keeps(t)
	if first == nil {
		t.Fatal("it was not told")
	}
	f.down(t)
	putBack := saved(t, f.instance(), "instance.json", "witness.json", machinetest.DiskDir)
	for range 3 {
		f.up(t)
		f.down(t)
	}
	f.up(t)
	f.down(t)
	newest := f.keeps(t)
	putBack()
	s := f.up(t)
	f.held(t, s, "older copy", "as the witness 127.0.0.1:", "epochs between is not on it")
	if k := f.keeps(t); *k != *newest {
		t.Errorf("the witness was told of it: %v, it had %v", k, newest)
	}
	// It stays so, and is not started anew for ever.
	h, err := f.History(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	f.settle(t)
	if again, err := f.History(t.Context(), "sql"); err != nil || again.Process != h.Process {
		t.Errorf("%+v, %v", again, err)
	}
	// The owner's word: the witness is told of what goes on.
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.AcceptRollback(t.Context(), "that is all there is"); err != nil {
		t.Fatal(err)
	}
	if s := f.settle(t); s.Stale() != nil || !s.Guest.Healthy() {
		t.Errorf("%+v", s.Guest)
	}
	if k := f.keeps(t); k.Epoch < newest.Epoch+continuity.Leap {
		t.Errorf("it keeps %v", k)
	}
}

// Power cuts, lost answers and a witness that is away alarm nobody.
func TestNoFalseAlarm(t *testing.T) {
	f := newFixture(t)
	f.add(t)
	f.up(t)
	// What was known of the witness is lost with a power cut, the disk and the
	// record are not.
	putBack := saved(t, f.instance(), "witness.json")
	f.down(t)
	f.up(t)
	f.down(t)
	putBack()
	if s := f.up(t); s.Stale() != nil {
		t.Errorf("%v; %s", s.Stale(), f.words())
	}
	// So does the record lag behind.
	putBack = saved(t, f.instance(), "instance.json")
	f.down(t)
	f.up(t)
	f.down(t)
	putBack()
	if s := f.up(t); s.Stale() != nil {
		t.Errorf("%v; %s", s.Stale(), f.words())
	}
	// Away, for many starts, and back.
	address := f.srv.Listener.Addr().String()
	f.srv.Close()
	if err := f.w.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.down(t)
		if s := f.up(t); s.Stale() != nil {
			t.Errorf("away: %v", s.Stale())
		}
	}
	if list := f.m.Status("sql"); len(list) != 1 || list[0].Trouble == "" || list[0].Alarm != "" {
		t.Errorf("%+v", list)
	}
	f.serve(t, address)
	f.m.known = map[string]*known{} // as a sovereignd that has started anew
	f.down(t)
	if s := f.up(t); s.Stale() != nil {
		t.Errorf("back: %v", s.Stale())
	}
	if h, err := f.History(t.Context(), "sql"); err != nil || f.keeps(t).Epoch != h.Last.Epoch {
		t.Errorf("%v, %+v", f.keeps(t), h.Last)
	}
}

// A copy that runs elsewhere tells the witness first: it is found at the second.
func TestCloneRunsTwice(t *testing.T) {
	f := newFixture(t)
	f.add(t)
	f.up(t)
	f.down(t)
	copied := saved(t, f.instance(), "instance.json", "witness.json", machinetest.DiskDir)
	f.up(t) // the copy, elsewhere
	f.down(t)
	copied() // the first one, here, which is of before
	s := f.up(t)
	f.held(t, s, "witness")
}

// A witness that was put back is told apart, and told again.
func TestWitnessPutBack(t *testing.T) {
	f := newFixture(t)
	f.add(t)
	f.up(t)
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(f.dir)); err != nil {
		t.Fatal(err)
	}
	f.down(t)
	f.up(t)
	f.put(t, old)
	f.down(t)
	if s := f.up(t); s.Stale() != nil {
		t.Fatalf("%v; %s", s.Stale(), f.words())
	}
	if list := f.m.Status("sql"); len(list) != 1 || !strings.Contains(list[0].Alarm, "put back") || !strings.Contains(f.words(), "put back") {
		t.Errorf("%+v; %s", list, f.words())
	}
	if h, err := f.History(t.Context(), "sql"); err != nil || f.keeps(t).Epoch != h.Last.Epoch {
		t.Errorf("it was not told again: %v, %+v, %v", f.keeps(t), h.Last, err)
	}
	// One that lies stops nothing.
	lying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("epoch 1000000\n")) })) //nolint:errcheck // a test's
	defer lying.Close()
	if err := f.m.note("sql", f.srv.URL, func(_ *state, e *entry) { e.URL = lying.URL }); err != nil {
		t.Fatal(err)
	}
	f.m.known = map[string]*known{}
	f.down(t)
	if s := f.up(t); s.Stale() != nil {
		t.Errorf("%v", s.Stale())
	}
	if list := f.m.Status("sql"); !strings.Contains(list[0].Trouble, "not the witness's") {
		t.Errorf("%+v", list)
	}
}

// A restore is the owner's word: the witness is told of what goes on.
func TestRestored(t *testing.T) {
	f := newFixture(t)
	f.add(t)
	f.up(t)
	f.down(t)
	putBack := saved(t, f.instance(), machinetest.DiskDir)
	then, err := f.History(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.up(t)
		f.down(t)
	}
	newest := f.keeps(t)
	s, err := f.StageInPlace(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Disk(), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replace(t.Context(), "", &then.Last.Continuity, "sql@x"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	putBack()
	if s := f.up(t); s.Stale() != nil || !s.Guest.Healthy() {
		t.Fatalf("%v; %s", s.Stale(), f.words())
	}
	if k := f.keeps(t); k.Epoch <= newest.Epoch {
		t.Errorf("it keeps %v, and had %v; %s", k, newest, f.words())
	}
}

// The repository knows a newer disk than is there.
func TestRepository(t *testing.T) {
	f := newFixture(t)
	var newest Backup
	f.m.o.Newest = func(context.Context, string, string) (Backup, error) { return newest, nil }
	f.m.after = 0
	f.up(t)
	f.down(t)
	putBack := saved(t, f.instance(), "instance.json", machinetest.DiskDir)
	f.up(t)
	f.down(t)
	f.up(t)
	h, err := f.History(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	newest = Backup{Continuity: &h.Last.Continuity, Time: h.Last.Time, Repository: "home", Known: true}
	f.down(t)
	if s := f.up(t); s.Stale() != nil {
		t.Errorf("the newest is its own: %v", s.Stale())
	}
	f.down(t)
	putBack()
	newest.Known = false
	f.held(t, f.up(t), "as the newest backup in home remembers")
}

func TestAdd(t *testing.T) {
	f := newFixture(t)
	f.add(t)
	f.add(t) // another token
	if _, err := f.m.Add(t.Context(), "sql", f.srv.URL, "not the token of this one", ""); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a wrong token: %v", err)
	}
	if _, err := f.m.Add(t.Context(), "sql", f.srv.URL, token, "sovereign-witness+00000000+AQ=="); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no key: %v", err)
	}
	if _, err := f.m.Add(t.Context(), "none", f.srv.URL, token, ""); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no machine: %v", err)
	}
	info, err := os.Stat(f.m.path("sql"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := f.m.Remove(t.Context(), "sql", "https://other"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("%v", err)
	}
	if err := f.m.Remove(t.Context(), "sql", f.srv.URL); err != nil || len(f.m.Status("sql")) != 0 {
		t.Errorf("%v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"schema":1,"lineage":"ab","witnesses":[{"url":"u","key":"k","token":"t","added":"2026-11-30T12:00:00Z","signed":{"epoch":1,"hash":"a"}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseState("witness.json", text)
		if err == nil && (s.Schema != 1 || len(s.Witnesses) > maxWitnesses) {
			t.Fatalf("%+v", s)
		}
	})
}
