#!/bin/sh -eu
# tailscale: daemon and command line as one static Go program; it is the
# command line when it is called tailscale. The module's version is pinned by
# go.mod beside this file.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

module=tailscale.com
grep -q "$module v$VERSION" "$PORT/go.mod" || die "go.mod does not require $module v$VERSION, the port's version"

# The version stamps are otherwise taken from git or the toolchain's fork.
stamps="-X $module/version.shortStamp=$VERSION -X $module/version.longStamp=$VERSION-sovereign"
mkdir -p "$OUT/usr/sbin" "$OUT/usr/bin" "$WORK/gocache"
cd "$PORT"
GOOS=linux GOARCH=$GOARCH CGO_ENABLED=0 GOCACHE=$WORK/gocache GOMODCACHE=$WORK/gomodcache \
	GOFLAGS="-mod=readonly -trimpath -modcacherw" \
	go build -p "$JOBS" -buildvcs=false -tags ts_include_cli \
	-ldflags "-s -w -buildid= $stamps" -o "$OUT/usr/sbin/tailscaled" "$module/cmd/tailscaled"
ln -s ../sbin/tailscaled "$OUT/usr/bin/tailscale"
