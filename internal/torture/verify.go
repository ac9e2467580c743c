package torture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sovereign-build/sovereign/internal/pause"
)

// row is one of the ledger as the database gives it.
type row struct {
	series
	Seq   int
	Whole bool // its payload is what its key says
}

// findings is what a look at the ledger gave.
type findings struct {
	Rows     int
	Acks     int      // rows acknowledged, where the caller counts them
	Doubt    int      // rows in doubt before
	Problems []string // at most maxProblems of a kind
}

const maxProblems = 5

// judge holds the rows of the database against the record of the same rounds,
// and says how the rows in doubt came out.
func judge(fates map[series][]fate, rows []row) (f findings, settled map[row]fate) {
	count := map[row]int{}
	var lost, doubled, invented, damaged []string
	for _, r := range rows {
		key := row{series: r.series, Seq: r.Seq}
		name := fmt.Sprintf("round %d, writer %d, row %d", r.Round, r.Writer, r.Seq)
		known := fates[r.series]
		if r.Seq < 1 || r.Seq > len(known) || known[r.Seq-1] == absent {
			invented = append(invented, name)
		}
		if count[key]++; count[key] == 2 {
			doubled = append(doubled, name)
		}
		if !r.Whole {
			damaged = append(damaged, name)
		}
	}
	settled = map[row]fate{}
	for s, known := range fates {
		for i, fate := range known {
			key := row{series: s, Seq: i + 1}
			here := count[key] > 0
			switch {
			case fate == sent && here:
				settled[key] = present
			case fate == sent:
				settled[key] = absent
			case (fate == acked || fate == present) && !here:
				lost = append(lost, fmt.Sprintf("round %d, writer %d, row %d", s.Round, s.Writer, i+1))
			}
		}
	}
	f = findings{Rows: len(rows), Doubt: len(settled)}
	for _, kind := range []struct {
		what string
		rows []string
	}{
		{"acknowledged and lost", lost}, {"there twice", doubled}, {"there and never sent", invented}, {"not whole", damaged},
	} {
		if len(kind.rows) == 0 {
			continue
		}
		slices.Sort(kind.rows)
		text := fmt.Sprintf("%d rows %s: %s", len(kind.rows), kind.what, strings.Join(kind.rows[:min(len(kind.rows), maxProblems)], "; "))
		f.Problems = append(f.Problems, text)
	}
	return f, settled
}

// verify looks at the rows of the machine's last round in full, at earlier
// ones by their number, and settles what was in doubt. The load must have been
// stopped.
func (m *machine) verify(ctx context.Context) (findings, error) {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	c, err := m.connect(ctx)
	if err != nil {
		return findings{}, err
	}
	defer closeConn(c)
	if err := quiet(ctx, c); err != nil {
		return findings{}, err
	}
	return m.look(ctx, c)
}

// look is verify on a connection.
func (m *machine) look(ctx context.Context, c *pgx.Conn) (findings, error) {
	log, from := m.log, m.round
	rows, err := ledger(ctx, c, from)
	if err != nil {
		return findings{}, err
	}
	log.mu.Lock()
	now, earlier := map[series][]fate{}, 0
	for s, all := range log.fates {
		if s.Round >= from {
			now[s] = slices.Clone(all)
			continue
		}
		for _, f := range all {
			if f == acked || f == present {
				earlier++
			}
		}
	}
	log.mu.Unlock()
	f, settled := judge(now, rows)
	for key, fate := range settled {
		if err := log.settle(key.series, key.Seq, fate); err != nil {
			return f, err
		}
	}
	var count int
	if err := c.QueryRow(ctx, "SELECT count(*) FROM torture.ledger WHERE round < $1", from).Scan(&count); err != nil {
		return f, err
	}
	if count != earlier {
		f.Problems = append(f.Problems, fmt.Sprintf("%d rows of earlier rounds, want %d", count, earlier))
	}
	sums, err := sums(ctx, c)
	f.Problems = append(f.Problems, sums...)
	return f, err
}

// verifyAll reads the record back from its file and holds every row of the
// ledger against it.
func (m *machine) verifyAll(ctx context.Context) (findings, error) {
	file, err := os.Open(m.logFile())
	if err != nil {
		return findings{}, err
	}
	defer file.Close()
	fates, err := readCommitLog(file)
	if err != nil {
		return findings{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	c, err := m.connect(ctx)
	if err != nil {
		return findings{}, err
	}
	defer closeConn(c)
	rows, err := ledger(ctx, c, 0)
	if err != nil {
		return findings{}, err
	}
	f, _ := judge(fates, rows)
	return f, nil
}

func ledger(ctx context.Context, c *pgx.Conn, from int) ([]row, error) {
	const query = `SELECT round, writer, seq, payload = repeat(md5(round || ':' || writer || ':' || seq), 1 + seq % 40)
FROM torture.ledger WHERE round >= $1`
	rows, err := c.Query(ctx, query, from)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (v row, err error) {
		err = r.Scan(&v.Round, &v.Writer, &v.Seq, &v.Whole)
		return v, err
	})
}

// sums checks what transactions keep equal: each writer's tally and its rows,
// and the four sums of pgbench.
func sums(ctx context.Context, c *pgx.Conn) ([]string, error) {
	var problems []string
	var tallies int
	const tally = `SELECT count(*) FROM torture.tally t WHERE n <> (SELECT count(*) FROM torture.ledger l WHERE l.writer = t.writer)`
	if err := c.QueryRow(ctx, tally).Scan(&tallies); err != nil {
		return nil, err
	}
	if tallies != 0 {
		problems = append(problems, fmt.Sprintf("%d tallies differ from their rows: a transaction was done by half", tallies))
	}
	var accounts, tellers, branches, history int64
	const bench = `SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
(SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)`
	if err := c.QueryRow(ctx, bench).Scan(&accounts, &tellers, &branches, &history); err != nil {
		return nil, err
	}
	if accounts != tellers || accounts != branches || accounts != history {
		problems = append(problems, fmt.Sprintf("pgbench's sums differ: accounts %d, tellers %d, branches %d, history %d", accounts, tellers, branches, history))
	}
	return problems, nil
}

// quiet waits until no transaction of another client is under way: a writer
// that was cut off may have left one that has yet to end.
func quiet(ctx context.Context, c *pgx.Conn) error {
	const others = `SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'`
	for {
		var n int
		if err := c.QueryRow(ctx, others).Scan(&n); err != nil || n == 0 {
			return err
		}
		if err := pause.For(ctx, 50*time.Millisecond); err != nil {
			return errors.Join(fmt.Errorf("%d transactions of clients that are gone do not end", n), err)
		}
	}
}
