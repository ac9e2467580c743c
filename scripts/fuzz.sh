#!/bin/sh
# Runs every fuzz target of the module for the given time each.
set -eu
time=$1
go list ./... | while read -r package; do
	dir=$(go list -f '{{.Dir}}' "$package")
	grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go 2>/dev/null | sed 's/^func //' | while read -r target; do
		echo "== $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" </dev/null
	done
done
