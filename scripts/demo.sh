#!/bin/sh
# The main job, start to end: build recipes/sql for this machine, boot it, ask
# it something, stop it. The data disk stays, so a second demo boots faster.
set -eu
sb=bin/sovereign-build
arch=$(go env GOARCH)

say() { printf '\n== %s\n' "$*"; }

say "building recipes/sql for $arch"
$sb build recipes/sql --arch "$arch" --relock-missing

say "booting it"
$sb run "dist/sql-$arch" --detach
trap '$sb stop sql' EXIT

say "asking PostgreSQL"
# The password goes to psql by its environment, not its command line.
url=$($sb dsn sql)
user=${url#postgres://}
user=${user%%:*}
password=${url#postgres://"$user":}
password=${password%%@*}
PGPASSWORD=$password psql --no-psqlrc --expanded "postgres://$user@${url#*@}" <<'SQL'
SELECT version();
SELECT datlocprovider, datlocale FROM pg_database WHERE datname = current_database();
SELECT string_agg(w, ' ' ORDER BY w COLLATE "sv-SE-x-icu") AS swedish,
       string_agg(w, ' ' ORDER BY w COLLATE "de-DE-x-icu") AS german
FROM unnest(ARRAY['zebra', 'ärlig', 'apa', 'öl']) AS w;
SQL

say "it works; to keep it running: $sb run sql, then $sb dsn sql"
