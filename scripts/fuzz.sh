#!/bin/sh
# Runs every fuzz target of the module for the given time each.
set -eu
time=$1
go list ./... | while read -r package; do
	dir=$(go list -f '{{.Dir}}' "$package")
	grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go 2>/dev/null | sed 's/^func //' | while read -r target; do
		echo "== $package $target"
		# Coverage that differs from run to run, as that of a decompressor with
		# pools, looks like news, and each would be minimized for a minute.
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "$package" </dev/null
	done
done
