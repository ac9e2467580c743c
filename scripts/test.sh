#!/bin/sh
# The tests, stage by stage, in the order of what each is worth.
# Usage: scripts/test.sh STAGE...
#
# MINUTES, if given, is a clock: a stage is only begun when it should be done
# before so many minutes have gone by since BEGIN (seconds since 1970, default:
# now), is ended seven minutes after that, and what was left out is named at the
# end. The stages that no run may do without (lint, unit, build, boot) begin and
# end whatever the clock says.
set -eu
limit=${MINUTES:-}
begin=${BEGIN:-$(date +%s)}
host=$(go env GOARCH)
sb=bin/sovereign-build
left_out=

minutes() { echo $((($(date +%s) - begin) / 60)); }

# cold ARCH: whether a build would have to compile what takes long. A dry run
# names every step that would have to run; with these cached, minutes are left.
cold() {
	case $($sb build recipes/sql --arch "$1" --dry-run --json | tail -n 1) in
	*'"kernel '*"$1:"* | *'"port openssl '* | *'"port icu '* | *'"port postgresql17 '* | *'"port libcxx '*) return 0 ;;
	esac
	return 1
}

# takes STAGE: about how many minutes it takes on two cores with nothing beside.
takes() {
	case $1 in
	e2e) echo 12 ;;
	modules) echo 4 ;;
	snapshots) echo 12 ;;
	audit) echo 4 ;;
	cache) echo 4 ;;
	forge) echo 20 ;;
	backup) echo 16 ;;
	crosvm) echo 8 ;;
	arm64) if cold arm64; then echo $((cold_build > 30 ? cold_build + 5 : 35)); else echo 6; fi ;;
	tailnet) echo 6 ;;
	devices) echo 11 ;;
	phone) echo 10 ;;          # estimated: its parts were measured beside other work
	phone-machines) echo 25 ;; # likewise
	streams) echo 4 ;;
	transfer) echo 4 ;;
	release) echo 3 ;;
	torture) echo 6 ;;
	*) echo 0 ;;
	esac
}

# target STAGE: its target of make.
target() {
	case $1 in
	lint) echo lint ;;
	unit | build | boot | e2e | modules | snapshots | audit | cache | forge | backup | crosvm | arm64 | devices | phone | phone-machines | tailnet | streams | transfer | release | torture) echo "test-$1" ;;
	*) echo "test: there is no stage $1" >&2; exit 2 ;;
	esac
}

cold_build=0
slow=1 # times as long as takes says
for stage in "$@"; do
	before=$(minutes)
	name=$(target "$stage")
	estimate=$(takes "$stage")
	if [ -n "$limit" ] && [ "$estimate" -gt 0 ] && [ $((before + estimate * slow)) -gt "$limit" ]; then
		echo "== $stage is left out: $before of $limit minutes are gone"
		left_out="$left_out $stage"
		continue
	fi
	was_cold=no
	if [ "$stage" = build ] && cold "$host"; then was_cold=yes; fi
	seconds=0
	if [ -n "$limit" ] && [ "$estimate" -gt 0 ]; then
		seconds=$(((limit + 7 - before) * 60))
	fi
	status=0
	timeout --kill-after=30 $seconds make --no-print-directory "$name" || status=$?
	if [ $status = 124 ] || [ $status = 137 ]; then
		echo "== $stage is cut off: $(minutes) of $limit minutes are gone"
		left_out="$left_out $stage"
		continue
	fi
	[ $status = 0 ] || exit $status
	took=$(($(minutes) - before))
	echo "== $stage done: $took minutes, $(minutes) since the beginning"
	case $stage in
	build) if [ $was_cold = yes ]; then cold_build=$took; fi ;;
	boot) if [ "$took" -ge 5 ]; then slow=2; fi ;; # it takes 2
	esac
done
if [ -n "$left_out" ]; then
	echo "== left out for want of time:$left_out; scripts/test.sh$left_out runs them"
fi
