package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// put stores a text and makes its last use long ago.
func put(t *testing.T, s *Store, text string) Digest {
	t.Helper()
	d, _, err := s.Put(t.Context(), strings.NewReader(text), "")
	if err != nil {
		t.Fatal(err)
	}
	age(t, s.Path(d))
	return d
}

func age(t *testing.T, path string) {
	t.Helper()
	old := time.Now().Add(-30 * 24 * time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

// act records that a step made outputs, long ago.
func act(t *testing.T, s *Store, name, version string, outputs ...Digest) string {
	t.Helper()
	a := Action{Name: name, Description: []byte(fmt.Sprintf("%q", version)), Outputs: map[string]Digest{}}
	for i, d := range outputs {
		a.Outputs[fmt.Sprint(i)] = d
	}
	key := Key(a.Description)
	if err := s.PutAction(key, a); err != nil {
		t.Fatal(err)
	}
	age(t, s.actionPath(key))
	for _, d := range outputs {
		age(t, s.Path(d))
	}
	return key
}

// there tells whether a blob is there, without using it.
func there(s *Store, d Digest) bool {
	_, err := os.Lstat(s.Path(d))
	return err == nil
}

// reopen ends the use of a store and begins another.
func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func noRoots(r Root) ([]Digest, error) { return nil, fs.ErrNotExist }

func TestCollect(t *testing.T) {
	s := open(t)
	old1, old2 := put(t, s, "output of version 1"), put(t, s, "output of version 2")
	key1 := act(t, s, "port zlib", "1", old1)
	key2 := act(t, s, "port zlib", "2", old2)
	dropped, young := put(t, s, "nobody's"), put(t, s, "young")
	named, before := put(t, s, "named by a lock"), put(t, s, "named by the lock before it was changed")
	unreadable := put(t, s, "named by a lock that cannot be read")
	away := put(t, s, "named by a lock on a disk that is away")
	gone := put(t, s, "named by a bundle that is gone")
	for _, r := range []Root{
		{Kind: LockRoot, Path: "/recipes/sql/sovereign.lock", Digests: []Digest{before}},
		{Kind: LockRoot, Path: "/unreadable", Digests: []Digest{unreadable}},
		{Kind: LockRoot, Path: "/away", Digests: []Digest{away}},
		{Kind: BundleRoot, Path: "/gone", Digests: []Digest{gone}},
	} {
		if err := s.AddRoot(r); err != nil {
			t.Fatal(err)
		}
	}
	err := s.eachRoot(func(record string, _ time.Time, r Root) error {
		if r.Path == "/gone" {
			age(t, record)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	// A use makes a blob young.
	if !s.Has(young) {
		t.Fatal("it has gone")
	}
	s = reopen(t, s)

	o := CollectOptions{OlderThan: 24 * time.Hour, DryRun: true, Named: func(r Root) ([]Digest, error) {
		switch r.Path {
		case "/recipes/sql/sovereign.lock":
			return []Digest{named}, nil
		case "/unreadable":
			return nil, errors.New("line 3 is nonsense")
		}
		return nil, fmt.Errorf("open: %w", fs.ErrNotExist)
	}}
	all := []Digest{old1, old2, dropped, young, named, before, unreadable, away, gone}
	would, err := s.Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if !there(s, d) {
			t.Errorf("a dry run removed %s", d)
		}
	}
	o.DryRun = false
	did, err := s.Collect(t.Context(), o)
	if err != nil || did != would {
		t.Errorf("did %+v, %v; would %+v", did, err, would)
	}
	want := map[Digest]bool{old2: true, young: true, named: true, unreadable: true, away: true}
	for _, d := range all {
		if there(s, d) != want[d] {
			t.Errorf("%s: there %v, want %v", d, there(s, d), want[d])
		}
	}
	if did.Before.Blobs != len(all) || did.Removed.Blobs != len(all)-len(want) || did.Removed.Bytes == 0 || did.Actions != 1 || did.Roots != 1 {
		t.Errorf("%+v", did)
	}
	if _, ok, err := s.readAction(key1); ok || err != nil {
		t.Errorf("the old action: %v, %v", ok, err)
	}
	if _, ok, err := s.Action(key2); !ok || err != nil {
		t.Errorf("the newest action: %v, %v", ok, err)
	}

	// Nothing is kept for its age alone, and nothing that is named goes.
	s = reopen(t, s)
	o.OlderThan = 0
	if did, err = s.Collect(t.Context(), o); err != nil || did.Removed.Blobs != 2 {
		t.Errorf("%+v, %v", did, err)
	}
	for _, d := range []Digest{old2, named, unreadable} {
		if !there(s, d) {
			t.Errorf("%s is gone", d)
		}
	}
}

// What an open store has put, found or asked for stays, also what it finds
// while a Collect runs, and what it used until just now.
func TestCollectKeepsWhatIsUsed(t *testing.T) {
	s := open(t)
	found, asked, late := put(t, s, "found"), FromBytes([]byte("asked for")), put(t, s, "found late")
	output := put(t, s, "output")
	key := act(t, s, "port zlib", "1", output)
	act(t, s, "port zlib", "2")
	s = reopen(t, s)

	user, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if !user.Has(found) || user.Has(asked) {
		t.Fatal("has it or not")
	}
	if _, ok, err := user.Action(key); !ok || err != nil {
		t.Fatal(err)
	}
	age(t, s.Path(found))
	age(t, s.Path(output))
	age(t, s.actionPath(key))
	put(t, s, "asked for") // another process has put it meanwhile
	s = reopen(t, s)
	age(t, s.Path(asked))

	// Between the looking and the removing, a user comes, finds and goes.
	o := CollectOptions{Named: func(Root) ([]Digest, error) { return nil, fs.ErrNotExist }}
	if err := s.AddRoot(Root{Kind: LockRoot, Path: "/x"}); err != nil {
		t.Fatal(err)
	}
	o.Named = func(Root) ([]Digest, error) {
		guest, err := Open(s.Dir())
		if err != nil || !guest.Has(late) {
			t.Errorf("found late: %v", err)
		}
		if err := guest.Close(); err != nil {
			t.Error(err)
		}
		age(t, s.Path(late))
		return nil, nil
	}
	if did, err := s.Collect(t.Context(), o); err != nil || did.Removed.Blobs != 0 || did.Actions != 0 {
		t.Errorf("%+v, %v", did, err)
	}
	if _, ok, err := user.Action(key); !ok || err != nil {
		t.Errorf("the action that is used: %v, %v", ok, err)
	}
	// The next one finds nobody.
	if err := user.Close(); err != nil {
		t.Fatal(err)
	}
	o.Named = noRoots
	if did, err := s.Collect(t.Context(), o); err != nil || did.Removed.Blobs != 4 || did.Actions != 1 {
		t.Errorf("%+v, %v", did, err)
	}
}

const helperEnv = "SOVEREIGN_TEST_STORE"

// TestHelperBuild is a build of another process: it looks for each output and
// makes it if it is not there, and fails if one that it has goes.
func TestHelperBuild(t *testing.T) {
	dir := os.Getenv(helperEnv)
	if dir == "" {
		t.Skip("run by TestCollectWhileBuilding")
	}
	for round := range 15 {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		var all []Digest
		for i := range 40 {
			text := fmt.Sprintf("output %d", i)
			description := []byte(fmt.Sprintf("%q", fmt.Sprint(os.Getpid()%2, i)))
			key := Key(description)
			a, ok, err := s.Action(key)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				d, _, err := s.Put(t.Context(), strings.NewReader(text), "")
				if err != nil {
					t.Fatal(err)
				}
				a = Action{Name: fmt.Sprint("step ", round%2), Description: description, Outputs: map[string]Digest{"out": d}}
				if err := s.PutAction(key, a); err != nil {
					t.Fatal(err)
				}
			}
			all = append(all, a.Outputs["out"])
			for _, d := range all {
				if _, err := os.Stat(s.Path(d)); err != nil {
					t.Fatalf("round %d, step %d: %v", round, i, err)
				}
			}
			if _, ok, err := s.Action(key); !ok || err != nil {
				t.Fatalf("round %d, step %d: the action has gone: %v", round, i, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Builds in two processes and collections that keep nothing for its age, all
// at once: no build loses what it has.
func TestCollectWhileBuilding(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var builds, collections sync.WaitGroup
	for range 2 {
		builds.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperBuild$")
			cmd.Env = append(os.Environ(), helperEnv+"="+s.Dir())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	removed := 0
	collections.Go(func() {
		for ctx.Err() == nil {
			did, err := s.Collect(ctx, CollectOptions{Named: noRoots})
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			removed += did.Removed.Blobs
		}
	})
	builds.Wait()
	cancel()
	collections.Wait()
	if removed == 0 {
		t.Error("nothing was ever removed: the test shows nothing")
	}
	if v, err := s.Verify(t.Context(), VerifyOptions{}); err != nil || len(v.Damaged) > 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// On a full disk a build cannot write down what it uses: then nothing is
// removed until it has ended, and a Collect makes room all the same.
func TestCollectOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	d := put(t, s, strings.Repeat("x", 100_000))
	s = reopen(t, s)
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	user, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if !user.Has(d) {
		t.Fatal("it has gone")
	}
	age(t, s.Path(d))
	ctx, cancel := context.WithCancel(t.Context())
	waited := false
	if _, err := s.Collect(ctx, CollectOptions{Named: noRoots, Waiting: func() { waited = true; cancel() }}); !errors.Is(err, context.Canceled) || !waited || !there(s, d) {
		t.Errorf("while it is used: %v, waited %v", err, waited)
	}
	if quiet, err := s.Quiet(t.Context(), func() error { t.Error("called"); return nil }); quiet || err != nil {
		t.Errorf("%v, %v", quiet, err)
	}
	if err := user.Close(); err != nil {
		t.Fatal(err)
	}
	if did, err := s.Collect(t.Context(), CollectOptions{Named: noRoots}); err != nil || did.Removed.Blobs != 1 {
		t.Errorf("%+v, %v", did, err)
	}
}

func TestQuiet(t *testing.T) {
	s := open(t)
	calls := 0
	call := func() error { calls++; return nil }
	if quiet, err := s.Quiet(t.Context(), call); !quiet || err != nil || calls != 1 {
		t.Errorf("%v, %v, %d calls", quiet, err, calls)
	}
	other, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if quiet, err := s.Quiet(t.Context(), call); quiet || err != nil || calls != 1 {
		t.Errorf("while another is open: %v, %v, %d calls", quiet, err, calls)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if quiet, err := s.Quiet(t.Context(), call); !quiet || err != nil || calls != 2 {
		t.Errorf("after it: %v, %v, %d calls", quiet, err, calls)
	}
}

// Notes of stores that were closed do not pile up.
func TestNotesAreTidied(t *testing.T) {
	s := open(t)
	for range 5 {
		s = reopen(t, s)
	}
	entries, err := os.ReadDir(filepath.Join(s.Dir(), sessionsDir))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestVerify(t *testing.T) {
	s := open(t)
	good, bad, cut := put(t, s, "good"), put(t, s, "bad"), put(t, s, "cut")
	act(t, s, "port zlib amd64", "1", good, bad)
	if err := errors.Join(os.Chmod(s.Path(bad), 0o644), os.WriteFile(s.Path(bad), []byte("BAD"), 0o644),
		os.Chmod(s.Path(cut), 0o644), os.Truncate(s.Path(cut), 1),
		os.WriteFile(filepath.Join(s.Dir(), "actions", strings.Repeat("a", 64)+".json"), []byte("{"), 0o644)); err != nil {
		t.Fatal(err)
	}
	var last Usage
	v, err := s.Verify(t.Context(), VerifyOptions{Progress: func(done, of Usage) {
		if of.Blobs != 3 || done.Blobs != last.Blobs+1 {
			t.Errorf("%+v of %+v after %+v", done, of, last)
		}
		last = done
	}})
	if err != nil || v.Blobs != 3 || v.Actions != 1 || len(v.Damaged) != 3 || last.Blobs != 3 {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, d := range v.Damaged {
		if d.Digest == bad && (len(d.Uses) != 1 || d.Uses[0] != "port zlib amd64: 1" || !strings.Contains(d.Reason, string(FromBytes([]byte("BAD"))))) {
			t.Errorf("%+v", d)
		}
		if _, err := os.Stat(d.Path); err != nil || d.Removed {
			t.Errorf("removed without being asked: %+v, %v", d, err)
		}
	}
	if v, err = s.Verify(t.Context(), VerifyOptions{Repair: true}); err != nil || len(v.Damaged) != 3 {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, d := range v.Damaged {
		if _, err := os.Stat(d.Path); !errors.Is(err, fs.ErrNotExist) || !d.Removed {
			t.Errorf("not removed: %+v, %v", d, err)
		}
	}
	if v, err = s.Verify(t.Context(), VerifyOptions{}); err != nil || len(v.Damaged) != 0 || v.Blobs != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	// What was removed is made or fetched again.
	if d, _, err := s.Put(t.Context(), strings.NewReader("bad"), bad); d != bad || err != nil {
		t.Errorf("%s, %v", d, err)
	}

	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := s.Verify(ctx, VerifyOptions{}); err != why {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := s.Collect(ctx, CollectOptions{Named: noRoots}); err != why {
		t.Errorf("cancelled: %v", err)
	}
	if err := s.AddRoot(Root{Kind: LockRoot, Path: "relative"}); fault.ClassOf(err) != fault.Internal {
		t.Errorf("a relative root: %v", err)
	}
}
