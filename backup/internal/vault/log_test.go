package vault

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/internal/pgtest"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/replication"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
)

// logged is a real server whose log is received.
type logged struct {
	*pgtest.Server
	t    *testing.T
	dir  string
	news chan replication.News
}

func newLogged(t *testing.T) *logged {
	l := &logged{Server: pgtest.New(t), t: t, dir: filepath.Join(t.TempDir(), "spool"), news: make(chan replication.News, 1000)}
	conn, err := l.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r := &replication.Receiver{Dir: l.dir, News: func(n replication.News) { l.news <- n }}
		_ = r.Fresh(ctx, conn, "a test") // its end is the test's
	}()
	t.Cleanup(func() {
		cancel()
		for {
			select {
			case <-l.news:
			case <-ended:
				return
			}
		}
	})
	return l
}

// until waits until all that is committed is kept.
func (l *logged) until() wal.Kept {
	l.t.Helper()
	want, err := wal.ParseLSN(l.Query("SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		l.t.Fatal(err)
	}
	late := time.After(3 * time.Minute)
	for {
		kept, err := wal.OpenSpoolReadOnly(l.dir)
		if err == nil && kept.Extent.To >= want {
			return kept
		}
		select {
		case <-l.news:
		case <-late:
			l.t.Fatalf("%v did not come: %+v, %v", want, kept, err)
		}
	}
}

func (l *logged) position() backup.LogPosition {
	l.t.Helper()
	kept := l.until()
	return backup.LogPosition{Service: "postgresql", Branch: kept.Branch.ID, Timeline: 1, Before: kept.Extent.To, After: kept.Extent.To}
}

// TestLog keeps a real log in a repository in parts, and has a real server replay
// what the repository hands out.
func TestLog(t *testing.T) {
	w := newWorld(t, "")
	if _, err := w.do(t.Context(), backupjob.Init, nil); err != nil {
		t.Fatal(err)
	}
	l := newLogged(t)
	l.Query("CREATE TABLE rows (n int)")
	l.Query("CHECKPOINT")
	at := l.position()
	base := pgtest.Of(t, l.Data)
	put := func() backup.Log {
		t.Helper()
		kept := l.until()
		res, err := w.do(t.Context(), backupjob.PutLog, func(j *backupjob.Job) {
			j.Log, j.Spool = &backup.Log{Machine: "sql", Service: "postgresql", Branch: kept.Branch, Extent: kept.Extent}, l.dir
		})
		if err != nil {
			t.Fatal(err)
		}
		return res.Logs[0]
	}
	l.Query("INSERT INTO rows SELECT generate_series(1, 100000)")
	put()
	l.Query("SELECT pg_switch_wal()")
	l.Query("INSERT INTO rows SELECT generate_series(1, 50000)")
	moment := l.Query("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
	l.Query("SELECT pg_create_restore_point('here')")
	put()
	l.Query("INSERT INTO rows SELECT generate_series(1, 7)")
	whole := put()
	res, err := w.do(t.Context(), backupjob.Logs, nil)
	if err != nil || len(res.Logs) != 1 || res.Logs[0].Extent.To != whole.Extent.To || res.Logs[0].Extent.From != res.Logs[0].Branch.Start || len(res.Logs[0].Extent.Points) != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	if res, err := w.do(t.Context(), backupjob.Verify, func(j *backupjob.Job) { j.Percent = 100 }); err != nil || res.Read < 16<<20 {
		t.Errorf("%+v, %v", res, err)
	}
	l.Query("INSERT INTO rows SELECT generate_series(1, 5)") // only the spool has it
	l.until()

	replay := func(target backup.Target, spool string) (*backupjob.Result, string, error) {
		dir := t.TempDir()
		image := filepath.Join(dir, "recovery.img")
		work := filepath.Join(dir, "work")
		if err := os.Mkdir(work, 0o700); err != nil {
			t.Fatal(err)
		}
		res, err := w.do(t.Context(), backupjob.Replay, func(j *backupjob.Job) {
			j.Spool = spool
			j.ReplayLog = &backupjob.ReplayLog{Base: at, Target: target, Image: image, Work: work, ID: "one"}
		})
		return res, image, err
	}
	to, err := backup.ParseTime(moment)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		target backup.Target
		spool  string
		rows   string
	}{
		{"a time", backup.Target{Time: to}, "", "150000"},
		{"a point", backup.Target{Point: "here"}, "", "150000"},
		{"a place", backup.Target{LSN: at.After}, "", "0"},
		{"the end of the repository's", backup.Target{}, "", "150007"},
		{"the end of the spool's", backup.Target{}, l.dir, "150012"},
	} {
		res, image, err := replay(c.target, c.spool)
		if err != nil || res.Reached == nil {
			t.Errorf("%s: %+v, %v", c.name, res, err)
			continue
		}
		if c.name == "a place" {
			continue // nothing is replayed: an image has all of it
		}
		server := pgtest.Of(t, base.Data)
		server.Replay(unpack(t, image), fmt.Sprint(res.Reached.Timeline), res.Reached.LSN.String())
		if got := server.Query("SELECT count(*) FROM rows"); got != c.rows {
			t.Errorf("%s: %s rows, want %s", c.name, got, c.rows)
		}
		server.Stop()
	}

	// What cannot be had is said, with what can.
	if _, _, err := replay(backup.Target{Time: time.Now().Add(time.Hour)}, ""); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "it ends at") {
		t.Errorf("a time to come: %v", err)
	}
	if _, _, err := replay(backup.Target{Point: "nowhere"}, ""); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no such point: %v", err)
	}
	if res, _, err := replay(backup.Target{LSN: at.Before - 1}, ""); err != nil || res.TooEarly == "" {
		t.Errorf("a place before the backup: %+v, %v", res, err)
	}
}

// unpack is the directory of the service in an image.
func unpack(t *testing.T, image string) string {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tree, err := erofs.Read(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "recovery")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for e := range tree.All() {
		if !e.IsRegular() {
			continue
		}
		out, err := os.OpenFile(filepath.Join(dir, filepath.Base(e.Path)), os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			err = e.CopyTo(out)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
