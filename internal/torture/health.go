package torture

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// answers waits until a new connection answers as ok wants.
func (m *machine) answers(ctx context.Context, ok func(context.Context, *pgx.Conn) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	var last error
	for {
		good, err := m.askOnce(ctx, ok)
		if good && err == nil {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		// An attempt takes from the machine that is waited for.
		if pause.For(ctx, 30*time.Millisecond) != nil {
			return fmt.Errorf("no healthy answer within %v: %w (last: %w)", healLimit, context.Cause(ctx), last)
		}
	}
}

func (m *machine) askOnce(ctx context.Context, ok func(context.Context, *pgx.Conn) (bool, error)) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statementLimit)
	defer cancel()
	c, err := m.connect(ctx)
	if err != nil {
		return false, err
	}
	defer closeConn(c)
	return ok(ctx, c)
}

// selects is the plainest thing to ask of a server.
func selects(ctx context.Context, c *pgx.Conn) (bool, error) {
	var one int
	err := c.QueryRow(ctx, "SELECT 1").Scan(&one)
	return one == 1, err
}

// guestReady waits until the guest itself says that it is ready and ok agrees.
func (m *machine) guestReady(ctx context.Context, ok func(*agent.Status) bool) error {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	for {
		s, err := m.status(ctx)
		if err == nil && s.State == agent.StateReady && ok(s) {
			return nil
		}
		if pause.For(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("the guest is not ready within %v: %+v, %w", healLimit, s, err)
		}
	}
}

func anyStatus(*agent.Status) bool { return true }

// checked runs work under the writers and says what of the rows was wrong in
// the end. The machine must run.
func (m *machine) checked(ctx context.Context, bench bool, work func(*commitLog) error) (findings, error) {
	l, err := m.startLoad(ctx, bench)
	if err != nil {
		return findings{}, err
	}
	before := m.log.count()
	workErr := work(m.log)
	if err := l.stop(); err != nil {
		return findings{}, err
	}
	if workErr != nil {
		return findings{}, workErr
	}
	f, err := m.verify(ctx)
	f.Acks = m.log.count() - before
	return f, err
}
