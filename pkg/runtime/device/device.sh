#!/bin/sh
# What sovereign-build device runs on a device, by ssh, behind common.sh: it says
# what is there, and then installs sovereignd or takes it away, as it is told.
# shellcheck disable=SC2034 # common.sh reads dir, program and beside

# ctl ARGUMENTS: systemctl, of the system or of the user.
ctl() {
	if [ "$service" = user ]; then systemctl --user "$@"; else systemctl "$@"; fi
}

facts() {
	if [ -z "$HOME" ] || ! cd "$HOME" 2>/dev/null; then fail "there is no home directory: HOME is '$HOME'"; fi
	home=$(pwd -P)
	base=$home/.local/share
	dir=$base/sovereign
	program=$dir/sovereignd beside=$dir/sovereign-backup
	case $XDG_STATE_HOME in /*) ;; *) XDG_STATE_HOME= ;; esac
	state=${XDG_STATE_HOME:-$home/.local/state}/sovereign
	say os "$(uname -s)"
	say machine "$(uname -m)"
	say user "$(id -un)"
	say program "$program"
	say state "$state"
	programs
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

install() {
	begin
	[ "$1" = keep ] || put "$2" 755
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
	beside)
		begin
		receive "$beside" "$more" 755
		;;
	remove) uninstall "$more" ;;
	*) exit 0 ;;
	esac
	say finished
}
main
