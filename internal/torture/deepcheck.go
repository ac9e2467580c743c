package torture

import (
	"context"
	"fmt"
	"strings"
)

// prewarm reads every block of every relation through the buffer manager,
// which checks its checksum.
const prewarm = `SELECT coalesce(sum(pg_prewarm(c.oid, 'buffer', f.fork)), 0)
FROM pg_class c, (VALUES ('main'), ('fsm'), ('vm')) f(fork)
WHERE c.relkind IN ('r', 'i', 't', 'm', 'S') AND c.relpersistence <> 't' AND pg_relation_size(c.oid, f.fork) > 0`

// deepCheck reads the whole cluster: pg_amcheck over heaps and indexes of all
// databases, every block of the main one, and the count of bad checksums. It
// returns what is wrong, and the blocks read.
func (m *machine) deepCheck(ctx context.Context) (problems []string, blocks int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
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
	c, err := m.connect(ctx)
	if err != nil {
		return problems, 0, err
	}
	defer closeConn(c)
	if err := c.QueryRow(ctx, prewarm).Scan(&blocks); err != nil {
		problems = append(problems, "reading every block: "+err.Error())
	}
	// The statistics are written out by the backends when they end or idle.
	var bad int64
	const checksums = `SELECT coalesce(sum(checksum_failures), 0)::bigint FROM pg_stat_database`
	if err := c.QueryRow(ctx, checksums).Scan(&bad); err != nil {
		return problems, blocks, err
	}
	if bad != 0 {
		problems = append(problems, fmt.Sprintf("%d blocks with a wrong checksum", bad))
	}
	return problems, blocks, nil
}
