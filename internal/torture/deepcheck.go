package torture

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// prewarm reads every block of every relation through the buffer manager,
// which checks its checksum.
const prewarm = `SELECT coalesce(sum(pg_prewarm(c.oid, 'buffer', f.fork)), 0)
FROM pg_class c, (VALUES ('main'), ('fsm'), ('vm')) f(fork)
WHERE c.relkind IN ('r', 'i', 't', 'm', 'S') AND c.relpersistence <> 't' AND pg_relation_size(c.oid, f.fork) > 0`

// deepCheck reads the whole cluster: pg_amcheck over heaps and indexes of all
// databases, every block of the main one, and the count of bad checksums that
// were met by that. It returns what is wrong, and the blocks read.
//
// Bad checksums that the server met before are not counted. It goes on after one
// in a free space map or a visibility map only: it does not log all changes of
// those, so that a power cut may tear a page, which it makes anew when it reads
// it. One in a table or an index that a cut left is still there, and is met
// again.
func (m *machine) deepCheck(ctx context.Context) (problems []string, blocks int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	c, err := m.connect(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer closeConn(c)
	before, err := badChecksums(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	cmd, err := m.client(ctx, "pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--parent-check")
	if err != nil {
		return nil, 0, err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
		problems = append(problems, fmt.Sprintf("pg_amcheck: %v: %.2000s", err, strings.TrimSpace(string(out))))
	}
	if err := c.QueryRow(ctx, prewarm).Scan(&blocks); err != nil {
		problems = append(problems, "reading every block: "+err.Error())
	}
	after, err := badChecksums(ctx, c)
	if err != nil {
		return problems, blocks, err
	}
	if bad := after - before; bad != 0 {
		problems = append(problems, fmt.Sprintf("%d blocks with a wrong checksum", bad))
	}
	return problems, blocks, nil
}

// badChecksums counts the blocks with a wrong checksum that the server has met
// since its statistics begin, this session's own included.
func badChecksums(ctx context.Context, c *pgx.Conn) (n int64, err error) {
	if _, err := c.Exec(ctx, "SELECT pg_stat_force_next_flush()"); err != nil {
		return 0, err
	}
	err = c.QueryRow(ctx, "SELECT coalesce(sum(checksum_failures), 0)::bigint FROM pg_stat_database").Scan(&n)
	return n, err
}
