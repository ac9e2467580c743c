#!/bin/sh
# What sovereign-build device runs on a device, by ssh: it says what is there,
# and then installs sovereignd or takes it away, as it is told.
#
# Out come lines "sovereign: KEY VALUE". After "sovereign: ready" one line comes
# in:
#
#   put DIGEST     and behind it the program, until the end of input
#   keep           the program that is there is the right one
#   remove         take all away but the machines
#   remove data    and them too
#
# Everything is a function, so that a part of this text does nothing.

say() { printf 'sovereign: %s\n' "$*"; }

fail() {
	say fail "$*"
	exit 1
}

digest() { sha256sum "$1" 2>/dev/null | cut -d ' ' -f 1; }

# ctl ARGUMENTS: systemctl, of the system or of the user.
ctl() {
	if [ "$service" = user ]; then systemctl --user "$@"; else systemctl "$@"; fi
}

# daemons LINK: the running sovereignds whose program is LINK. One that only
# carries a conversation is none.
daemons() {
	for process in /proc/[0-9]*; do
		[ "$(readlink "$process/exe" 2>/dev/null)" = "$1" ] || continue
		case " $(tr '\0' ' ' <"$process/cmdline" 2>/dev/null)" in *' connect '*) continue ;; esac
		echo "${process#/proc/}"
	done
}

# end LINK: kills them. Whatever they do, they may be killed at any moment: the
# machines run on.
end() {
	for pid in $(daemons "$1"); do kill -KILL "$pid" 2>/dev/null; done
}

facts() {
	if [ -z "$HOME" ] || ! cd "$HOME" 2>/dev/null; then fail "there is no home directory: HOME is '$HOME'"; fi
	home=$(pwd -P)
	base=$home/.local/share
	dir=$base/sovereign
	program=$dir/sovereignd
	case $XDG_STATE_HOME in /*) ;; *) XDG_STATE_HOME= ;; esac
	state=${XDG_STATE_HOME:-$home/.local/state}/sovereign
	say os "$(uname -s)"
	say machine "$(uname -m)"
	say user "$(id -un)"
	say program "$program"
	say state "$state"
	[ ! -f "$program" ] || say digest "$(digest "$program")"
	service=
	if [ -d /run/systemd/system ] && command -v systemctl >/dev/null; then
		if [ "$(id -u)" = 0 ]; then
			service=system units=/etc/systemd/system wants=multi-user.target
		elif systemctl --user show-environment >/dev/null 2>&1; then
			service=user units=$home/.config/systemd/user wants=default.target
		fi
	fi
	if [ -n "$service" ]; then
		unit=$units/sovereignd.service
		say service "$service"
		if [ -f "$unit" ]; then
			say unit "$unit"
			say enabled "$(ctl is-enabled sovereignd.service 2>/dev/null)"
			say active "$(ctl is-active sovereignd.service 2>/dev/null)"
		fi
	fi
	lingers && say linger yes
	command -v "qemu-system-$(uname -m)" >/dev/null && say qemu yes
	[ -r /dev/kvm ] && [ -w /dev/kvm ] && say kvm yes
	say ready
}

# lingers: whether the user's services run without a login.
lingers() {
	[ "$service" = user ] && [ "$(loginctl show-user "$(id -un)" --property=Linger 2>/dev/null)" = Linger=yes ]
}

# receive DIGEST: the program comes in, and stands at its place only whole.
receive() {
	new=$dir/.new.$$
	trap 'rm -f "$new"; rmdir "$dir" 2>/dev/null' EXIT
	trap 'exit 1' TERM
	cat >"$new" || fail "$new cannot be written"
	have=$(digest "$new")
	[ "$have" = "$1" ] || fail "the program did not arrive whole: its digest is ${have:-unknown}, not $1"
	chmod 755 "$new" || fail "$new cannot be made a program"
	said=$("$new" --help 2>&1) || fail "the program does not run here: $said"
	sync "$new" 2>/dev/null || sync
	mv -f "$new" "$program" || fail "$program cannot be replaced"
	trap - EXIT TERM
	sync "$dir" 2>/dev/null || sync
	# They are of the former file, which has no name any more.
	end "$program (deleted)"
}

install() {
	mkdir -p "$dir" || fail "$dir cannot be made"
	# What a power cut has left of others.
	for old in "$dir"/.new.*; do kill -0 "${old##*.}" 2>/dev/null || rm -f "$old"; done
	[ "$1" = keep ] || receive "$2"
	say installed "$program"
	[ -n "$service" ] || return 0
	if [ "$service" = user ] && ! lingers && loginctl enable-linger >/dev/null 2>&1 && lingers; then
		: >"$dir/linger" # by us
		say linger yes
	fi
	# At the end of the last login, a service of a user who does not linger ends,
	# and its machines with it.
	[ "$service" = system ] || lingers || return 0
	mkdir -p "$units" || fail "$units cannot be made"
	new=$units/.sovereignd.service.$$
	trap 'rm -f "$new"' EXIT
	write_unit >"$new" || fail "$new cannot be written"
	mv -f "$new" "$unit" || fail "$unit cannot be written"
	trap - EXIT
	said=$(ctl daemon-reload 2>&1 && ctl enable sovereignd.service 2>&1) || fail "the service cannot be enabled: $said"
	if [ "$(ctl is-active sovereignd.service)" != active ]; then
		end "$program" # two cannot keep the same machines
		said=$(ctl start sovereignd.service 2>&1) || fail "the service cannot be started: $said"
	fi
	say unit "$unit"
}

write_unit() {
	cat <<END
[Unit]
Description=Sovereign's machines

[Service]
ExecStart=$(escaped "$program") --stop-machines
END
	[ -z "$XDG_STATE_HOME" ] || echo "Environment=\"XDG_STATE_HOME=$(escaped "$XDG_STATE_HOME")\""
	cat <<END
KillMode=process
TimeoutStopSec=180
Restart=always
RestartSec=2

[Install]
WantedBy=$wants
END
}

# escaped WORD: as systemd's files have it.
escaped() { printf '%s' "$1" | sed 's/%/%%/g; s/\\/\\\\/g; s/"/\\"/g; s/ /\\x20/g'; }

uninstall() {
	if [ -n "$unit" ] && [ -f "$unit" ]; then
		said=$(ctl disable --now sovereignd.service 2>&1) || fail "the service cannot be stopped: $said"
		rm -f "$unit" || fail "$unit cannot be removed"
		ctl daemon-reload
		ctl reset-failed sovereignd.service 2>/dev/null
	fi
	end "$program"
	end "$program (deleted)"
	if [ -f "$dir/linger" ]; then loginctl disable-linger; fi
	rm -rf "$dir" || fail "$dir cannot be removed"
	if [ "$1" = data ]; then rm -rf "$state" || fail "$state cannot be removed"; fi
	# What is empty now may have been made for this.
	rmdir "$base" "${state%/sovereign}" "$home/.local" 2>/dev/null
	if [ "$service" = user ]; then
		rmdir "$units/$wants.wants" "$units" "$home/.config/systemd" "$home/.config" 2>/dev/null
	fi
	return 0
}

main() {
	export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
	umask 022
	# What is begun is done, whoever has gone away.
	trap '' HUP INT PIPE
	facts
	read -r word more || exit 0
	case $word in
	put | keep) install "$word" "$more" ;;
	remove) uninstall "$more" ;;
	*) exit 0 ;;
	esac
	say finished
}
main
