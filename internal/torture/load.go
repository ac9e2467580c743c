package torture

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/internal/pause"
)

// statementLimit bounds one commit as its writer sees it.
const statementLimit = 20 * time.Second

// load is writers and pgbench at work on a machine.
type load struct {
	m *machine

	cancel  context.CancelFunc
	workers sync.WaitGroup
	mu      sync.Mutex
	err     error // of the experiment: the log could not be written
}

// startLoad sets the writers to work and, with bench, pgbench beside them.
// They connect anew, for ever, until stop.
func (m *machine) startLoad(ctx context.Context, bench bool) (*load, error) {
	if m.log == nil {
		var err error
		if m.log, err = newCommitLog(m.logFile()); err != nil {
			return nil, err
		}
	}
	m.round++
	ctx, cancel := context.WithCancel(ctx)
	l := &load{m: m, cancel: cancel}
	if bench {
		// Of its output only that it ran is of interest: it ends with an error
		// when its server does.
		cmd, err := m.client(ctx, "pgbench", "--no-vacuum", "--client=2", "--time=86400")
		if err != nil {
			cancel()
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			cancel()
			return nil, err
		}
		l.workers.Go(func() { waitProgram(cmd) })
	}
	for w := 1; w <= writers; w++ {
		l.workers.Go(func() { l.write(ctx, series{m.round, w}) })
	}
	return l, nil
}

// logFile is the record of the machine's writers.
func (m *machine) logFile() string { return filepath.Join(m.dir, "commits.log") }

func (m *machine) closeLog() error {
	if m.log == nil {
		return nil
	}
	err := m.log.Close()
	m.log = nil
	return err
}

// waitProgram reaps a program whose end, however it came, is expected.
func waitProgram(cmd *exec.Cmd) { _ = cmd.Wait() }

// stop ends the load. What is under way stays in doubt.
func (l *load) stop() error {
	l.cancel()
	l.workers.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, err)
	l.cancel()
}

// write commits row after row until ctx ends.
func (l *load) write(ctx context.Context, s series) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			closeConn(conn)
		}
	}()
	for ctx.Err() == nil {
		if conn == nil {
			var err error
			if conn, err = l.m.connect(ctx); err != nil {
				conn = nil
				// The server is down: that is what is tried. Ask again soon.
				if pause.For(ctx, 20*time.Millisecond) != nil {
					return
				}
				continue
			}
		}
		seq, err := l.m.log.begin(s)
		if err != nil {
			l.fail(err)
			return
		}
		if commit(ctx, conn, s, seq) != nil {
			closeConn(conn)
			conn = nil
			// In doubt; a server that refuses at once must not be flooded.
			if pause.For(ctx, 20*time.Millisecond) != nil {
				return
			}
			continue
		}
		if err := l.m.log.acked(s, seq); err != nil {
			l.fail(err)
			return
		}
	}
}

// commit adds one row: mostly as a single statement, every fourth time in a
// transaction with a savepoint.
func commit(ctx context.Context, conn *pgx.Conn, s series, seq int) error {
	ctx, cancel := context.WithTimeout(ctx, statementLimit)
	defer cancel()
	if seq%4 != 0 {
		_, err := conn.Exec(ctx, insert, s.Round, s.Writer, seq)
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		return pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			_, err := inner.Exec(ctx, insert, s.Round, s.Writer, seq)
			return err
		})
	})
}

// closeConn closes a connection whose other end may be gone.
func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx) // it is broken, or about to be
}
