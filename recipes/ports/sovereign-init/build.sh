#!/bin/sh -eu
# sovereign-init: this project's own guest program, static.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

mkdir -p "$OUT/sbin" "$WORK/gocache"
cd "$SRC/sovereign"
GOOS=linux GOARCH=$GOARCH CGO_ENABLED=0 GOCACHE=$WORK/gocache GOMODCACHE=$WORK/gomodcache \
	GOFLAGS="-mod=readonly -trimpath -modcacherw" \
	go build -p "$JOBS" -buildvcs=false -ldflags "-s -w -buildid=" \
	-o "$OUT/sbin/sovereign-init" ./cmd/sovereign-init
