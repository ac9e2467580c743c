package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// witness is a "witness serve" that runs.
type witness struct {
	URL, Key, Token string

	cmd *exec.Cmd
}

func serveWitness(t *testing.T, dir, listen string) *witness {
	t.Helper()
	w := &witness{cmd: exec.Command("../bin/sovereign-build", "witness", "serve", dir, "--listen", listen, "--json")}
	w.cmd.Stderr = os.Stderr
	out, err := w.cmd.StdoutPipe()
	if err == nil {
		err = w.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		err = json.Unmarshal([]byte(line), w)
	}
	if err != nil {
		t.Fatalf("witness serve said %q: %v", line, err)
	}
	t.Cleanup(func() { w.end(t) })
	return w
}

func (w *witness) end(t *testing.T) {
	t.Helper()
	if w.cmd == nil {
		return
	}
	err := w.cmd.Process.Signal(syscall.SIGINT)
	if err == nil {
		err = w.cmd.Wait()
	}
	if w.cmd = nil; err != nil {
		t.Errorf("witness serve: %v", err)
	}
}

type remembers struct {
	Continuity struct{ Epoch uint64 }
	Witnesses  []struct {
		Keeps          *struct{ Epoch uint64 }
		Alarm, Trouble string
	}
}

// remember waits until the witness keeps what the host does, of an epoch beyond
// another.
func (m *machine) remember(ctx context.Context, want int, beyond uint64) remembers {
	m.t.Helper()
	for {
		out, code := m.command("witness", "status", "sql", "--json")
		if code != want {
			m.t.Fatalf("witness status: exit code %d, want %d: %s", code, want, out)
		}
		var r remembers
		if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Witnesses) != 1 {
			m.t.Fatalf("witness status --json printed %q: %v", out, err)
		}
		if k := r.Witnesses[0].Keeps; want != 0 || k != nil && k.Epoch == r.Continuity.Epoch && k.Epoch > beyond {
			return r
		}
		pause(m.t.(*testing.T), ctx)
	}
}

// TestRollbackWitness puts back, with the data disk, all that its host knows of
// it: a witness elsewhere finds that, and the services are held. It was away
// before, and had been put back itself, and neither alarmed anybody.
func TestRollbackWitness(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*bootDeadline)
	defer cancel()
	dir := filepath.Join(t.TempDir(), "witness")
	w := serveWitness(t, dir, "0.0.0.0:0")
	url := strings.Replace(w.URL, "0.0.0.0", "127.0.0.1", 1)
	if strings.Contains(w.URL, "[::]") {
		url = strings.Replace(w.URL, "[::]", "127.0.0.1", 1)
	}
	m.up(m.bundle)
	m.ok("witness", "add", "sql", url, "--key-file", w.Token, "--key", w.Key)
	first := m.remember(ctx, 0, 0)
	t.Logf("told of epoch %d", first.Witnesses[0].Keeps.Epoch)
	conn := m.connect(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE kept (n int)"); err != nil {
		t.Fatal(err)
	}
	m.ok("down", "sql")
	m.killSupervisor()
	instance := filepath.Join(m.stateDir(), "instances", "sql")
	monday, old := filepath.Join(t.TempDir(), "monday"), m.record().Continuity.Epoch
	copyAll := func(to, from string) {
		t.Helper()
		if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v %s", err, out)
		}
	}
	copyAll(monday, instance)

	// The witness is away at the next start, which nobody waits for.
	at := w.URL[strings.Index(w.URL, "//")+2 : strings.Index(w.URL, "?")]
	w.end(t)
	m.up("sql")
	conn = m.connect(ctx)
	if _, err := conn.Exec(ctx, "INSERT INTO kept VALUES (42)"); err != nil {
		t.Fatal(err)
	}
	m.remember(ctx, 4, 0)
	serveWitness(t, dir, at)
	// Monday's disk had a record of its end, which the witness was told of when
	// Tuesday began: only a record of Tuesday's own shows that Monday's is older.
	m.ok("restart", "sql", "--timeout", bootDeadline.String())
	newest := m.remember(ctx, 0, old)
	m.ok("down", "sql")
	m.killSupervisor()
	tuesday := filepath.Join(t.TempDir(), "tuesday")
	copyAll(tuesday, instance)

	// All of Monday's is put back.
	if err := os.RemoveAll(instance); err != nil {
		t.Fatal(err)
	}
	copyAll(instance, monday)
	m.command("up", "sql", "--timeout", bootDeadline.String()) // it may be healthy for a moment
	var out string
	for {
		var code int
		if out, code = m.command("up", "sql", "--json", "--timeout", bootDeadline.String()); code == 9 {
			break
		}
		pause(t, ctx)
	}
	t.Log(out)
	// Which of both depends on how far it went on by itself.
	if !strings.Contains(out, "an older copy") && !strings.Contains(out, "went another way") || !strings.Contains(out, "as the witness 127.0.0.1:") {
		t.Errorf("it says %s", out)
	}
	if out, code := m.command("psql", "sql", "-c", "SELECT 1"); code == 0 {
		t.Errorf("a service answers on a disk that is held: %s", out)
	}
	held := m.remember(ctx, 9, 0)
	if k := held.Witnesses[0].Keeps; k == nil || k.Epoch < newest.Witnesses[0].Keeps.Epoch {
		t.Errorf("the witness was told of an older disk: %+v", held)
	}

	// Tuesday's is the newest: nothing is held any more.
	m.ok("down", "sql")
	m.killSupervisor()
	if err := os.RemoveAll(instance); err != nil {
		t.Fatal(err)
	}
	copyAll(instance, tuesday)
	m.up("sql")
	m.remember(ctx, 0, 0)
	m.rows(ctx)

	// And Monday's by the owner's word.
	m.ok("down", "sql")
	m.killSupervisor()
	if err := os.RemoveAll(instance); err != nil {
		t.Fatal(err)
	}
	copyAll(instance, monday)
	m.command("up", "sql", "--timeout", bootDeadline.String())
	for {
		if _, code := m.command("up", "sql", "--json", "--timeout", bootDeadline.String()); code == 9 {
			break
		}
		pause(t, ctx)
	}
	m.ok("accept-rollback", "sql", "--reason", "this is all there is", "--timeout", bootDeadline.String())
	after := m.remember(ctx, 0, 0)
	if after.Continuity.Epoch < 1<<20 {
		t.Errorf("the witness was not told of what goes on: %+v", after)
	}
}

// TestRollbackWithData updates a machine with a copy of its data kept: an update
// that fails takes the data back with it, and so does a rollback of one that did
// not.
func TestRollbackWithData(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*bootDeadline)
	defer cancel()
	m.up(m.bundle)
	conn := m.connect(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)"); err != nil {
		t.Fatal(err)
	}
	good := m.variant(t, func(b *bundle.Manifest) { b.VM.MemoryMiB += 64 })
	wrong := strings.Repeat("0123456789abcdef", 4)
	bad := m.variant(t, func(b *bundle.Manifest) {
		b.VM.Cmdline = strings.ReplaceAll(b.VM.Cmdline, b.Root.Hash, wrong)
		b.Root.Hash = wrong
	})
	r := m.try(8, "update", "sql", bad, "--snapshot")
	if r.Result != "reverted" {
		t.Errorf("%+v", r)
	}
	m.rows(ctx)
	if s := m.status(); s.Kept != nil {
		t.Errorf("%+v is kept", s.Kept)
	}
	m.ok("restore", "sql", "--forget")
	if r := m.try(0, "update", "sql", good, "--snapshot"); r.Result != "committed" {
		t.Fatalf("%+v", r)
	}
	kept := m.status().Kept
	if kept == nil || kept.Size == 0 {
		t.Fatalf("%+v is kept", kept)
	}
	t.Logf("kept %d MiB", kept.Size>>20)
	m.port = m.record().Ports[0].Host
	conn = m.connect(ctx)
	if _, err := conn.Exec(ctx, "UPDATE kept SET n = 43"); err != nil {
		t.Fatal(err)
	}
	conn.Close(ctx)
	if out, code := m.command("rollback", "sql", "--with-data", "--json"); code != 2 {
		t.Errorf("nobody was asked: exit code %d: %s", code, out)
	}
	if r := m.try(0, "rollback", "sql", "--with-data", "--yes"); r.Result != "committed" {
		t.Fatalf("%+v", r)
	}
	m.rows(ctx)
	former, err := filepath.Glob(filepath.Join(m.stateDir(), "instances", "sql", "data.img.before-*"))
	if err != nil || len(former) != 1 {
		t.Errorf("the disk with what was written since: %q, %v", former, err)
	}
	if m.status().Kept != nil {
		t.Error("there is still a copy")
	}
}
