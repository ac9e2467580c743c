#!/bin/sh
# What the scripts of all devices have in common; it comes before them. A shell of
# Debian and toybox's of a phone both read it. Everything is a function, so that a
# part of this text does nothing.
#
# Out come lines "sovereign: KEY VALUE". After "sovereign: ready" one line comes
# in:
#
#   put DIGEST     and behind it the program, until the end of input
#   keep           the program that is there is the right one
#   beside DIGEST  and behind it sovereign-backup, which sovereignd starts
#   remove         take all away but the machines
#   remove data    and them too
#
# shellcheck disable=SC2154,SC2317 # the functions are used, and dir, program and beside set, by what follows

say() { printf 'sovereign: %s\n' "$*"; }

fail() {
	say fail "$*"
	exit 1
}

digest() { sha256sum "$1" 2>/dev/null | cut -d ' ' -f 1; }

# daemons LINK: the running sovereignds whose program is LINK. One that only
# carries a conversation is none.
daemons() {
	for process in /proc/[0-9]*; do
		[ "$(readlink "$process/exe" 2>/dev/null)" = "$1" ] || continue
		case " $(tr '\0' ' ' <"$process/cmdline" 2>/dev/null)" in *' connect '* | *' relay '*) continue ;; esac
		echo "${process#/proc/}"
	done
}

# end LINK: kills them. Whatever they do, they may be killed at any moment: the
# machines run on. On a phone two of them start each other again, so that it takes
# more than one look.
end() {
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		pids=$(daemons "$1")
		[ -n "$pids" ] || return 0
		for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
	done
}

# begin makes the program's directory and takes away what a power cut, or the end
# of the way here, has left of others.
begin() {
	mkdir -p "$dir" || fail "$dir cannot be made"
	for old in "$dir"/.new.*; do kill -0 "${old##*.}" 2>/dev/null || rm -f "$old"; done
}

# programs says which programs are there.
programs() {
	[ ! -f "$program" ] || say digest "$(digest "$program")"
	[ ! -f "$beside" ] || say beside "$(digest "$beside")"
}

# receive FILE DIGEST MODE: a program comes in, and stands at its place only whole.
receive() {
	new=$dir/.new.$$
	trap 'rm -f "$new"; rmdir "$dir" 2>/dev/null' EXIT
	trap 'exit 1' TERM
	cat >"$new" || fail "$new cannot be written"
	have=$(digest "$new")
	[ "$have" = "$2" ] || fail "the program did not arrive whole: its digest is ${have:-unknown}, not $2"
	chmod "$3" "$new" || fail "$new cannot be made a program"
	said=$("$new" --version 2>&1) || fail "the program does not run here: $said"
	sync "$new" 2>/dev/null || sync
	mv -f "$new" "$1" || fail "$1 cannot be replaced"
	trap - EXIT TERM
	sync "$dir" 2>/dev/null || sync
}

# put DIGEST MODE: sovereignd comes in.
put() {
	receive "$program" "$1" "$2"
	# They are of the former file, which has no name any more.
	end "$program (deleted)"
}
