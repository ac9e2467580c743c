#!/bin/sh -eu
# tzdata: compiled zones, with the old names, in the format every reader knows
# ("fat"); no "posix" and "right" copies.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack tzdata
zoneinfo=$OUT/usr/share/zoneinfo
mkdir -p "$zoneinfo"
zic=$(PATH=$PATH:/usr/sbin command -v zic) || die "the toolchain image has no zic (package libc-bin)"
"$zic" -b fat -d "$zoneinfo" \
	africa antarctica asia australasia europe northamerica southamerica etcetera factory backward
install -m 0644 iso3166.tab zone1970.tab zone.tab leapseconds "$zoneinfo/"
[ -s "$zoneinfo/Europe/Zurich" ] || die "zic made no Europe/Zurich"
