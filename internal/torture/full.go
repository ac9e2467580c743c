package torture

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sovereign-build/sovereign/internal/pause"
)

const (
	// smallDisk is the data disk that is filled, in bytes: a cluster, its log
	// and little else.
	smallDisk = 320 << 20
	// grownDisk is what an owner makes of it when the database cannot go on.
	grownDisk = 1 << 30
	// fullFor is how long the disk stays full with the writers at it.
	fullFor = 10 * time.Second
)

// runFull fills the data disk by SQL until the server refuses, leaves it full
// for a while under load, makes room, and looks at everything. Where the
// server goes on, the room is made by dropping the table; where it went down,
// by growing the disk while the machine runs.
func runFull(ctx context.Context, l *lab) ([]Result, error) {
	res := Result{Fault: "a full data disk", Times: 1}
	m, err := l.newMachine(ctx, "full", blank)
	if err != nil {
		return nil, err
	}
	if err := makeImage(m.image(), smallDisk); err != nil {
		return nil, err
	}
	if _, err := m.boot(ctx); err != nil {
		return nil, err
	}
	if err := m.makeTables(ctx); err != nil {
		return nil, err
	}
	var healed time.Duration
	f, err := m.checked(ctx, false, func(log *commitLog) error {
		refusal, mib, err := m.fill(ctx)
		if err != nil {
			return err
		}
		said, err := m.sayFull(ctx)
		if err != nil {
			return err
		}
		res.Figures = append(res.Figures, figure("written", "%d MiB", mib), figure("refused with", "%s", refusal), figure("status says", "%s", said))
		if err := pause.For(ctx, fullFor); err != nil {
			return err
		}
		begin := time.Now()
		how, err := m.makeRoom(ctx)
		if err != nil {
			res.Problems = append(res.Problems, "making room: "+err.Error())
			return nil
		}
		before := log.count()
		for log.count() == before {
			if time.Since(begin) > healLimit {
				res.Problems = append(res.Problems, "no commit since there is room again")
				return nil
			}
			if err := pause.For(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
		if err := m.guestReady(ctx, anyStatus); err != nil {
			res.Problems = append(res.Problems, err.Error())
		}
		healed = time.Since(begin)
		res.Figures = append(res.Figures, figure("room made by", "%s", how))
		return nil
	})
	if err != nil {
		return nil, err
	}
	res.Problems = append(res.Problems, f.Problems...)
	res.Heal = heal([]time.Duration{healed})
	problems, _, err := m.deepCheck(ctx)
	if err != nil {
		return nil, err
	}
	res.Problems = append(res.Problems, problems...)
	res.Figures = append(res.Figures, figure("commits acknowledged", "%d", f.Acks), figure("in doubt", "%d", f.Doubt))
	return []Result{res}, m.stop(ctx)
}

// fill adds rows of 1 MiB, not compressed, until the server refuses, and
// says with which word.
func (m *machine) fill(ctx context.Context) (refusal string, mib int, err error) {
	c, err := m.connect(ctx)
	if err != nil {
		return "", 0, err
	}
	defer closeConn(c)
	const setup = `CREATE TABLE filler (b text); ALTER TABLE filler ALTER b SET STORAGE EXTERNAL`
	if _, err := c.Exec(ctx, setup); err != nil {
		return "", 0, err
	}
	for mib < smallDisk>>20 {
		if _, err := c.Exec(ctx, `INSERT INTO filler VALUES (repeat('x', 1 << 20))`); err != nil {
			var pg *pgconn.PgError
			switch {
			case ctx.Err() != nil:
				return "", mib, context.Cause(ctx)
			case errors.As(err, &pg):
				return pg.Code, mib, nil
			}
			return "the connection's end", mib, nil
		}
		mib++
	}
	return "", mib, errors.New("more was written than the disk has room for")
}

// sayFull is what the owner is told.
func (m *machine) sayFull(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := m.status(ctx)
	if err != nil {
		return "", err
	}
	if s.Data == nil {
		return string(s.State), nil
	}
	return fmt.Sprintf("%s, %d MiB of %d free: %s", s.State, s.Data.Free>>20, s.Data.Size>>20, strings.TrimSpace(s.Message)), nil
}

// makeRoom does what an owner would, and says what that was.
func (m *machine) makeRoom(ctx context.Context) (how string, err error) {
	if c, err := m.connect(ctx); err == nil {
		_, err := c.Exec(ctx, "DROP TABLE filler")
		closeConn(c)
		if err == nil {
			return "DROP TABLE", nil
		}
	}
	if _, err := m.inst.Grow(ctx, grownDisk); err != nil {
		return "", err
	}
	return "growing the disk", nil
}
