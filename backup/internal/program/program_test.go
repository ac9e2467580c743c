package program

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// asProgram in the environment makes the test binary sovereign-backup.
const asProgram = "SOVEREIGN_BACKUP_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(Main(context.Background(), nil, os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// run is the program at work.
type running struct {
	*exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

func start(t *testing.T, j backupjob.Job) *running {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Cmd: exec.Command(self)}
	r.Env = append(os.Environ(), asProgram+"=1")
	out, err := r.StdoutPipe()
	if err == nil {
		r.in, err = r.StdinPipe()
	}
	if err == nil {
		err = r.Start()
	}
	if err == nil {
		err = json.NewEncoder(r.in).Encode(j)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Process.Kill() }) //nolint:errcheck // it has ended, mostly
	r.lines = bufio.NewScanner(out)
	r.lines.Buffer(nil, backupjob.MaxLine)
	return r
}

// next is the next line; false at the end.
func (r *running) next(t *testing.T) (s backupjob.Said, ok bool) {
	t.Helper()
	if !r.lines.Scan() {
		return s, false
	}
	s, err := backupjob.ParseSaid(r.lines.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return s, true
}

// finish answers what is asked and returns how it ends.
func (r *running) finish(t *testing.T) (*backupjob.Result, error) {
	t.Helper()
	for {
		s, ok := r.next(t)
		switch {
		case !ok:
			return nil, errors.Join(errors.New("no result"), r.Wait())
		case s.Read:
			if err := json.NewEncoder(r.in).Encode(backupjob.Answer{}); err != nil {
				t.Fatal(err)
			}
		case s.Error != nil:
			return nil, s.Error.Err()
		case s.Result != nil:
			r.in.Close()
			return s.Result, r.Wait()
		}
	}
}

func (r *running) kill(t *testing.T) {
	t.Helper()
	if err := r.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.Wait() // it was killed
}

func job(t *testing.T, size int64) (j backupjob.Job, disk string, content []byte) {
	t.Helper()
	dir := t.TempDir()
	disk, content = filepath.Join(dir, "data.img"), make([]byte, size)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range content {
		content[i] = byte(rnd.Uint32())
	}
	if err := os.WriteFile(disk, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return backupjob.Job{Repository: filepath.Join(dir, "repository"), Secrets: backup.Secrets{Key: "a key for tests only"},
		Dir: filepath.Join(dir, "job"), Host: "phone", Machine: "sql"}, disk, content
}

func with(j backupjob.Job, v backupjob.Verb) backupjob.Job { j.Verb = v; return j }

func backupOf(j backupjob.Job, disk string) backupjob.Job {
	j = with(j, backupjob.Backup)
	j.Disk = disk
	j.Manifest = &backup.Manifest{Machine: "sql", Taken: time.Now().UTC(), Bundle: backup.Bundle{Digest: "sha256:" + strings.Repeat("0", 64)}}
	return j
}

// TestKilled kills the program by SIGKILL in a backup and in a restore: no
// backup is listed that is none, the next one is whole, and what a restore has
// left is not taken for a disk.
func TestKilled(t *testing.T) {
	j, disk, content := job(t, 48<<20)
	if _, err := start(t, with(j, backupjob.Init)).finish(t); err != nil {
		t.Fatal(err)
	}
	points := map[string]func(r *running){
		"at once":        func(*running) {},
		"while it reads": func(r *running) { r.next(t) },
		"when all is read": func(r *running) {
			for {
				if s, ok := r.next(t); !ok || s.Read {
					return
				}
			}
		},
	}
	for _, after := range []time.Duration{0, 10 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond} {
		points["behind the answer, "+after.String()] = func(r *running) {
			points["when all is read"](r)
			if err := json.NewEncoder(r.in).Encode(backupjob.Answer{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after) // any moment will do
		}
	}
	whole := 0
	for name, until := range points {
		r := start(t, backupOf(j, disk))
		until(r)
		r.kill(t)
		res, err := start(t, with(j, backupjob.List)).finish(t)
		if err != nil {
			t.Fatalf("killed %s: %v", name, err)
		}
		if len(res.Snapshots) != whole && (!strings.HasPrefix(name, "behind") || len(res.Snapshots) != whole+1) {
			t.Fatalf("killed %s: %d backups, and %d were", name, len(res.Snapshots), whole)
		}
		whole = len(res.Snapshots)
	}
	last, err := start(t, backupOf(j, disk)).finish(t)
	if err != nil {
		t.Fatal(err)
	}
	verify := with(j, backupjob.Verify)
	verify.Percent = 100
	if res, err := start(t, verify).finish(t); err != nil || res.Checked != whole+1 {
		t.Errorf("%+v, %v", res, err)
	}
	restore := with(j, backupjob.Restore)
	restore.Snapshot = last.Snapshots[0].ID
	for n := range 3 {
		restore.Disk = filepath.Join(t.TempDir(), "restored.img")
		r := start(t, restore)
		for range n {
			r.next(t)
		}
		r.kill(t)
	}
	restore.Disk = filepath.Join(t.TempDir(), "restored.img")
	if _, err := start(t, restore).finish(t); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(restore.Disk); err != nil || !bytes.Equal(got, content) {
		t.Errorf("another disk was restored: %v", err)
	}
}

// Whoever started it is gone: so it ends, and keeps nothing.
func TestStarterGone(t *testing.T) {
	j, disk, _ := job(t, 8<<20)
	if _, err := start(t, with(j, backupjob.Init)).finish(t); err != nil {
		t.Fatal(err)
	}
	r := start(t, backupOf(j, disk))
	for {
		if s, ok := r.next(t); !ok || s.Read {
			break
		}
	}
	r.in.Close()
	s, ok := r.next(t)
	if !ok || s.Error == nil || s.Error.Class != fault.Cancelled {
		t.Errorf("%+v, %v", s, ok)
	}
	if err := r.Wait(); err == nil || r.ProcessState.ExitCode() != int(fault.Cancelled) {
		t.Errorf("it ended with %v", err)
	}
	res, err := start(t, with(j, backupjob.List)).finish(t)
	if err != nil || len(res.Snapshots) != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

// Standard input that is no job is no reason to print it.
func TestNoJob(t *testing.T) {
	for _, text := range []string{"", "{", `{"secrets":{"key":5}}`, `{"verb":"dance","repository":"/x","secrets":{"key":"a key for tests"}}`} {
		var out, errs bytes.Buffer
		code := Main(t.Context(), nil, strings.NewReader(text+"\n"), &out, &errs)
		s, err := backupjob.ParseSaid(out.Bytes())
		if err != nil || s.Error == nil || code == 0 || strings.Contains(out.String(), "a key for") {
			t.Errorf("%q: %d, %s", text, code, out.String())
		}
	}
	if code := Main(t.Context(), []string{"--help"}, strings.NewReader(""), io.Discard, io.Discard); code != int(fault.Usage) {
		t.Errorf("an argument: %d", code)
	}
}
