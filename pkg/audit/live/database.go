package live

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// question has all that is asked of PostgreSQL in one answer. Versions before 17
// call datlocale otherwise. The order is that of the database's own collation.
const question = `SELECT json_build_object(
	'version', current_setting('server_version'),
	'settings', (SELECT json_object_agg(name, json_build_object('value', setting, 'source', source, 'file', coalesce(sourcefile, '')))
		FROM pg_settings WHERE name IN ('dynamic_shared_memory_type', 'fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums')),
	'databases', (SELECT json_agg(json_build_object('name', datname, 'provider', datlocprovider,
		'locale', coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale', datcollate),
		'version', coalesce(datcollversion, ''), 'actual', coalesce(pg_database_collation_actual_version(oid), '')) ORDER BY datname)
		FROM pg_database d),
	'icu_collations', (SELECT count(*) FROM pg_collation WHERE collprovider = 'i'),
	'sorted', 'a' < 'B' AND 'ä' < 'z')`

// swedish is asked apart: without the collation it is an error.
const swedish = `SELECT 'z' < 'ö' COLLATE "sv-SE-x-icu"`

func (l *look) database(ctx context.Context) audit.Known[audit.Database] {
	s, ok := l.service("postgres")
	if !ok {
		return audit.Known[audit.Database]{Why: errNoServer.Error()}
	}
	text, err := l.sql(ctx, s.User, question)
	if err != nil {
		return audit.Unseen[audit.Database]("%v", err)
	}
	var d audit.Database
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return audit.Unseen[audit.Database]("PostgreSQL's answer: %v", err)
	}
	switch order, err := l.sql(ctx, s.User, swedish); {
	case err != nil:
		d.Swedish = audit.Unseen[bool]("%v", err)
	case order == "t" || order == "f":
		d.Swedish = audit.Saw(order == "t")
	default:
		d.Swedish = audit.Unseen[bool]("PostgreSQL answers %q", order)
	}
	return audit.Saw(d)
}

// sql asks the server over its socket, as the user that it runs as, who is let
// in without a password.
func (l *look) sql(ctx context.Context, user, query string) (string, error) {
	out, _, err := l.exec(ctx, agent.ExecRequest{
		Argv: []string{"psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--dbname=postgres", "--command=" + query},
		User: user,
		Env:  map[string]string{"PGCONNECT_TIMEOUT": "10", "PGOPTIONS": "-c statement_timeout=20s"},
	})
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(out)), nil
}
