#!/bin/sh -eu
# tailscale: daemon and command line as one static Go program; it is the
# command line when it is called tailscale. The module's version is pinned by
# go.mod beside this file.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

module=tailscale.com
grep -q "$module v$VERSION" "$PORT/go.mod" || die "go.mod does not require $module v$VERSION, the port's version"

# Left out, for half of the program's size: what needs a desktop, a bus, a
# cloud, a cluster, a router or a NAS; what changes programs on a root file
# system that is read-only (its own updates) or opens doors of its own (SSH,
# file sharing, the web client, orders by the control server); and what only
# debugs tailscaled itself. The names are those of feature/featuretags.
tags=ts_include_cli
for feature in \
	appconnectors aws bird capture clientupdate cloud completion \
	completion_scripts conn25 dbus debugeventbus debugportmapper \
	desktop_sessions doctor drive flashappliance identityfederation kube \
	linkspeed linuxdnsfight networkmanager portlist posture qrcodes \
	relayserver remoteconfig resolved sdnotify serviceclientprefs ssh synology \
	syspolicy systray taildrop tap tpm wakeonlan webbrowser webclient; do
	tags=$tags,ts_omit_$feature
done

# The version stamps are otherwise taken from git or the toolchain's fork.
stamps="-X $module/version.shortStamp=$VERSION -X $module/version.longStamp=$VERSION-sovereign"
mkdir -p "$OUT/usr/sbin" "$OUT/usr/bin" "$WORK/gocache"
cd "$PORT"
GOOS=linux GOARCH=$GOARCH CGO_ENABLED=0 GOCACHE=$WORK/gocache GOMODCACHE=$WORK/gomodcache \
	GOFLAGS="-mod=readonly -trimpath -modcacherw" \
	go build -p "$JOBS" -buildvcs=false -tags "$tags" \
	-ldflags "-s -w -buildid= $stamps" -o "$OUT/usr/sbin/tailscaled" "$module/cmd/tailscaled"
ln -s ../sbin/tailscaled "$OUT/usr/bin/tailscale"
