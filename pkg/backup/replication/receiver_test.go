package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/pgtest"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
)

// receiving is a receiver at work.
type receiving struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  chan error

	mu   sync.Mutex
	cond sync.Cond
	news News
	err  error
	over bool
}

func receive(t *testing.T, s *pgtest.Server, dir, why string) *receiving {
	t.Helper()
	return receiveFor(t, s, dir, why, false)
}

func receiveFor(t *testing.T, s *pgtest.Server, dir, why string, prompt bool) *receiving {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &receiving{t: t, cancel: cancel, ended: make(chan error, 1)}
	r.cond.L = &r.mu
	conn, err := s.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		receiver := &Receiver{Dir: dir, Prompt: func() bool { return prompt }, News: func(n News) {
			r.mu.Lock()
			r.news = n
			r.mu.Unlock()
			r.cond.Broadcast()
		}}
		run := receiver.Run
		if why != "" {
			run = func(ctx context.Context, conn io.ReadWriteCloser) error { return receiver.Fresh(ctx, conn, why) }
		}
		err := run(ctx, conn)
		r.mu.Lock()
		r.err, r.over = err, true
		r.mu.Unlock()
		r.cond.Broadcast()
		r.ended <- err
	}()
	t.Cleanup(cancel)
	return r
}

// until waits until the log is kept beyond a place.
func (r *receiving) until(at string) News {
	r.t.Helper()
	lsn, err := wal.ParseLSN(at)
	if err != nil {
		r.t.Fatal(err)
	}
	late := time.AfterFunc(2*time.Minute, func() {
		r.mu.Lock()
		r.over, r.err = true, fmt.Errorf("%v did not come", lsn)
		r.mu.Unlock()
		r.cond.Broadcast()
	})
	defer late.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.news.Extent.To < lsn && !r.over {
		r.cond.Wait()
	}
	if r.over && r.news.Extent.To < lsn {
		r.t.Fatalf("the receiver has ended at %v: %v", r.news.Extent.To, r.err)
	}
	return r.news
}

func (r *receiving) stop() error {
	r.cancel()
	return <-r.ended
}

// where is the end of what is committed.
const where = "SELECT pg_current_wal_flush_lsn()"

// basebackup is the cluster as a power cut leaves it.
func copied(t *testing.T, s *pgtest.Server) *pgtest.Server {
	t.Helper()
	return pgtest.Of(t, s.Data)
}

// recoverTo has a copy of a cluster replay what a spool has, to a record.
func recoverTo(s *pgtest.Server, spool string, tli wal.Timeline, at wal.LSN) {
	s.Configure("postgresql.conf",
		fmt.Sprintf("restore_command = 'f=%s/%%f; [ -f $f ] || f=$f.partial; cp $f \"%%p\"'", spool),
		fmt.Sprintf("recovery_target_lsn = '%v'", at), fmt.Sprintf("recovery_target_timeline = '%d'", tli),
		"recovery_target_action = promote", "hot_standby = off")
	s.Configure("recovery.signal")
}

// open lets the server's user read a spool, with segments of their full size, as
// whoever hands them to a server makes them.
func open(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chmod(f, 0o644); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, ".partial") {
			if err := os.Truncate(f, 16<<20); err != nil {
				t.Fatal(err)
			}
		}
	}
	for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReceiver(t *testing.T) {
	s := pgtest.New(t)
	dir := filepath.Join(t.TempDir(), "log")
	s.Query("CREATE TABLE rows (n int, at timestamptz DEFAULT clock_timestamp()); CHECKPOINT")
	r := receive(t, s, dir, "it was switched on")
	r.until(s.Query(where))
	base := copied(t, s)
	s.Query("INSERT INTO rows SELECT generate_series(1, 50000); SELECT pg_switch_wal()")
	s.Query("INSERT INTO rows SELECT generate_series(50001, 60000)")
	s.Query("SELECT pg_create_restore_point('here')")
	s.Query("CREATE TABLE flushed ()") // a point alone waits for whoever writes the log
	n := r.until(s.Query(where))
	if len(n.Extent.Points) != 1 || n.Extent.Points[0].Name != "here" {
		t.Errorf("points %+v", n.Extent.Points)
	}
	point := n.Extent.Points[0].LSN
	// Killed, and gone on with, many times, while it is written to.
	for k := range 8 {
		if err := r.stop(); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		s.Query(fmt.Sprintf("INSERT INTO rows SELECT generate_series(%d, %d)", 60001+k*100, 60100+k*100))
		r = receive(t, s, dir, "")
	}
	n = r.until(s.Query(where))
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	want := s.Query("SELECT count(*), sum(n) FROM rows")
	if age := time.Since(n.Extent.Newest); n.Extent.Newest.IsZero() || age < 0 || age > time.Hour {
		t.Errorf("the newest transaction ended at %v", n.Extent.Newest)
	}
	open(t, dir)
	again := pgtest.Of(t, base.Data)
	recoverTo(base, dir, 1, n.Extent.Last)
	base.Start()
	if got := base.Query("SELECT count(*), sum(n) FROM rows"); got != want {
		t.Errorf("%s rows were recovered, and there were %s", got, want)
	}
	recoverTo(again, dir, 1, point)
	again.Start()
	if got := again.Query("SELECT count(*) FROM rows"); got != "60000" {
		t.Errorf("%s rows at the point", got)
	}

	// The copy goes on, and what was kept of the first is not its log.
	base.Query("INSERT INTO rows SELECT generate_series(1, 10)")
	var fork *wal.ForkError
	if err := <-receive(t, again, dir, "").ended; !errors.As(err, &fork) {
		t.Errorf("another history: %v", err)
	}
}

// TestFollow goes on with a server that is promoted.
func TestFollow(t *testing.T) {
	s := pgtest.New(t)
	dir := filepath.Join(t.TempDir(), "log")
	s.Query("CREATE TABLE rows (n int); CHECKPOINT")
	r := receive(t, s, dir, "it was switched on")
	s.Query("INSERT INTO rows SELECT generate_series(1, 1000)")
	r.until(s.Query(where))
	base := copied(t, s)
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	s.Stop()
	// A promotion where the log ends, of the very same disk.
	s.Configure("recovery.signal")
	s.Configure("postgresql.conf", "restore_command = 'false'", "recovery_target_timeline = 'current'", "hot_standby = off")
	s.Start()
	s.Query("INSERT INTO rows SELECT generate_series(1001, 3000)")
	if got := s.Query("SELECT timeline_id FROM pg_control_checkpoint()"); got != "2" {
		t.Skipf("the server is on timeline %s", got)
	}
	r = receive(t, s, dir, "")
	n := r.until(s.Query(where))
	if n.Branch.Timeline != 2 {
		t.Fatalf("%+v", n.Branch)
	}
	s.Query("INSERT INTO rows SELECT generate_series(3001, 4000)")
	n = r.until(s.Query(where))
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	open(t, dir)
	recoverTo(base, dir, 2, n.Extent.Last)
	base.Start()
	if got := base.Query("SELECT count(*) FROM rows"); got != "4000" {
		t.Errorf("%s rows", got)
	}
}

// TestSlotLost has the server keep less than it is read.
func TestSlotLost(t *testing.T) {
	s := pgtest.New(t, "max_slot_wal_keep_size = 16MB", "max_wal_size = 32MB", "min_wal_size = 32MB")
	dir := filepath.Join(t.TempDir(), "log")
	r := receive(t, s, dir, "it was switched on")
	s.Query("CREATE TABLE rows (n int, text text)")
	r.until(s.Query(where))
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for range 6 {
		s.Query("INSERT INTO rows SELECT n, repeat('x', 1000) FROM generate_series(1, 12000) n; SELECT pg_switch_wal(); CHECKPOINT")
	}
	var gap *wal.GapError
	if err := <-receive(t, s, dir, "").ended; !errors.As(err, &gap) {
		t.Fatalf("a slot that was lost: %v", err)
	}
	other := dir + "2"
	r = receive(t, s, other, gap.Text)
	s.Query("INSERT INTO rows VALUES (1)")
	r.until(s.Query(where))
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	conn, err := s.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if had, err := DropSlot(t.Context(), conn); err != nil || !had {
		t.Errorf("%v, %v", had, err)
	}
	if got := s.Query("SELECT count(*) FROM pg_replication_slots"); got != "0" {
		t.Errorf("%s slots", got)
	}
}

// TestWentBack has a server with an older disk, which was written on beyond what
// was kept: PostgreSQL itself does not notice.
func TestWentBack(t *testing.T) {
	s := pgtest.New(t)
	dir := filepath.Join(t.TempDir(), "log")
	r := receive(t, s, dir, "it was switched on")
	s.Query("CREATE TABLE rows (n int); CHECKPOINT")
	r.until(s.Query(where))
	old := copied(t, s)
	s.Query("INSERT INTO rows SELECT generate_series(1, 1000)")
	kept := s.Query(where)
	r.until(kept)
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	old.Start()
	var fork *wal.ForkError
	if err := <-receive(t, old, dir, "").ended; !errors.As(err, &fork) {
		t.Errorf("a disk that ends before: %v", err)
	}
	old.Query("INSERT INTO rows SELECT generate_series(5001, 9000)")
	if err := <-receive(t, old, dir, "").ended; !errors.As(err, &fork) {
		t.Errorf("a disk that was written on: %v", err)
	}
	spool, err := wal.OpenSpool(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close() //nolint:errcheck // it is read
	if to := spool.Extent().To; to.String() < kept && len(to.String()) == len(kept) {
		t.Errorf("until %v is kept, and %s was", to, kept)
	}
}

// background runs a query whose end may be long in coming.
func background(t *testing.T, s *pgtest.Server, query string) <-chan error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "psql", "--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", "-h", s.Run, "-U", "postgres", "-d", "postgres", "-c", query)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return ended
}

// sees waits until a query says so.
func sees(t *testing.T, s *pgtest.Server, query, want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got = s.Query(query); got == want {
			return
		}
	}
	t.Fatalf("%s is %q, want %q", query, got, want)
}

// waitingCommits are those that wait for a receiver.
const waitingCommits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

// A server whose commits wait for their log gets its word when that is on the
// disk: at once, not before, and not for a log that is another.
func TestSynchronous(t *testing.T) {
	s := pgtest.New(t)
	dir := filepath.Join(t.TempDir(), "log")
	s.Query("CREATE TABLE rows (n int); CHECKPOINT")
	r := receiveFor(t, s, dir, "it was switched on", true)
	r.until(s.Query(where))
	old := copied(t, s)
	conn, err := s.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v, err := Setting(t.Context(), conn, "synchronous_standby_names"); err != nil || v != "" {
		t.Fatalf("%q, %v", v, err)
	}
	for _, c := range []*pgtest.Server{s, old} {
		c.Configure("postgresql.conf", "synchronous_standby_names = '"+Slot+"'")
	}
	s.Query("SELECT pg_reload_conf()")
	sees(t, s, "SELECT sync_state FROM pg_stat_replication", "sync")
	begin := time.Now()
	const commits = 10
	for n := range commits {
		s.Query(fmt.Sprintf("INSERT INTO rows VALUES (%d)", n))
		// What has been acknowledged is on the disk, whoever looks.
		end, err := wal.ParseLSN(s.Query("SELECT flush_lsn FROM pg_stat_replication"))
		if err != nil {
			t.Fatal(err)
		}
		kept, err := wal.OpenSpoolReadOnly(dir)
		if err != nil || kept.Extent.To < end {
			t.Fatalf("until %v is kept, and %v was confirmed: %v", kept.Extent.To, end, err)
		}
	}
	t.Logf("a commit, a look at it and a look at the disk took %v", time.Since(begin)/commits)

	// Nobody receives: the commit waits, and goes on by itself.
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	ended := background(t, s, "INSERT INTO rows SELECT generate_series(1, 1000)")
	sees(t, s, waitingCommits, "1")
	r = receiveFor(t, s, dir, "", true)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	kept := s.Query(where)
	r.until(kept)
	if err := r.stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}

	// A disk that went back, and whose log is longer than what was kept of the
	// other: nothing of it is acknowledged.
	old.Start()
	ended = background(t, old, "INSERT INTO rows SELECT generate_series(5001, 20000)")
	sees(t, old, waitingCommits, "1")
	sees(t, old, "SELECT pg_current_wal_flush_lsn() > '"+kept+"'", "t")
	var fork *wal.ForkError
	if err := <-receiveFor(t, old, dir, "", true).ended; !errors.As(err, &fork) {
		t.Errorf("a disk that was written on: %v", err)
	}
	select {
	case err := <-ended:
		t.Errorf("a commit that nobody keeps was acknowledged: %v", err)
	default:
	}
	if n := old.Query(waitingCommits); n != "1" {
		t.Errorf("%s commits wait", n)
	}
}
