#!/system/bin/sh
# What sovereign-build device runs on a phone, by adb and as root, behind
# common.sh: it says what is there, and then installs sovereignd or takes it away,
# as it is told. Without root it does that for the shell itself, where nothing
# starts with the phone. The programs are toybox's.

dir=/data/adb/sovereign
[ "$(id -u)" = 0 ] || dir=/data/local/tmp/sovereign
program=$dir/sovereignd
beside=$dir/sovereign-backup
state=$dir/state
hooks=/data/adb/service.d
hook=$hooks/sovereign.sh

# prop KEY NAME: a property, where it is set.
prop() {
	value=$(getprop "$2")
	[ -z "$value" ] || say "$1" "$value"
}

# line KEY FILE: the first line of a file that there is.
line() {
	read -r value 2>/dev/null <"$2" && say "$1" "$value"
}

facts() {
	say os "$(uname -s)"
	say machine "$(uname -m)"
	say user "$(id -u)"
	say program "$program"
	say state "$state"
	programs
	say kernel "$(uname -r)"
	prop model ro.product.model
	prop android ro.build.version.release
	prop sdk ro.build.version.sdk
	prop fingerprint ro.build.fingerprint
	prop booted sys.boot_completed
	prop safemode ro.sys.safemode
	prop avf ro.boot.hypervisor.vm.supported
	prop protected ro.boot.hypervisor.protected_vm.supported
	prop hypervisor ro.boot.hypervisor.version
	prop verified ro.boot.verifiedbootstate
	[ ! -e /apex/com.android.virt/bin/crosvm ] || say crosvm /apex/com.android.virt/bin/crosvm
	[ ! -x /apex/com.android.virt/bin/vm ] || say vm /apex/com.android.virt/bin/vm
	for file in /dev/block/by-name/pvmfw /dev/block/by-name/pvmfw_a; do [ ! -e $file ] || say pvmfw $file; done
	for file in /dev/kvm /dev/gunyah /dev/gzvm; do [ ! -e $file ] || say hypervisor-device $file; done
	[ ! -e /dev/vhost-vsock ] || say vsock yes
	selinux=$(getenforce 2>/dev/null) && say selinux "$selinux"
	if version=$(magisk -v 2>/dev/null); then
		say manager magisk "$version"
	elif [ -e /data/adb/ksud ] || version=$(ksud -V 2>/dev/null); then
		say manager kernelsu "$version"
	elif [ -e /data/adb/apd ]; then
		say manager apatch
	fi
	df -k /data 2>/dev/null | {
		read -r _
		read -r _ size _ free _ && say data "$size" "$free"
	}
	while read -r _ where kind _; do
		[ "$where" != /data ] || say filesystem "$kind"
	done </proc/mounts
	battery=/sys/class/power_supply/battery
	line battery $battery/capacity
	line charging $battery/status
	while read -r name amount _; do
		case $name in MemTotal:) say memory "$amount" ;; MemAvailable:) say available "$amount" ;; esac
	done </proc/meminfo
	if [ -f "$hook" ] && [ ! -L "$hook" ] && [ -x "$hook" ]; then say unit "$hook"; fi
	[ -z "$(daemons "$program")" ] || say active active
	command -v "qemu-system-$(uname -m)" >/dev/null 2>&1 && say qemu yes
	say ready
}

# place makes the directory.
place() {
	if [ "$(id -u)" = 0 ]; then
		[ -d /data/adb ] || fail "there is no /data/adb, which every manager of root has"
	else
		[ -x /apex/com.android.virt/bin/vm ] || fail "this is not root, and there is no /apex/com.android.virt/bin/vm, which would do without"
	fi
	begin
	chmod 700 "$dir" || fail "$dir cannot be its user's alone"
}

install() {
	place
	[ "$1" = keep ] || put "$2" 700
	say installed "$program"
	[ "$(id -u)" = 0 ] || return 0
	if [ ! -d "$hooks" ]; then
		mkdir "$hooks" || fail "$hooks cannot be made"
		chmod 755 "$hooks"
		: >"$dir/.made-service.d"
	fi
	# A regular file with an x bit, read by the root manager's sh, which is not
	# to wait for it.
	new=$hooks/.sovereign.$$
	trap 'rm -f "$new"' EXIT
	write_hook >"$new" || fail "$new cannot be written"
	chmod 755 "$new" || fail "$new cannot be made a program"
	mv -f "$new" "$hook" || fail "$hook cannot be written"
	trap - EXIT
	sync
	# It leaves the cgroup of whoever has started it by itself.
	[ -n "$(daemons "$program")" ] || sh "$hook"
}

write_hook() {
	cat <<END
#!/system/bin/sh
# Keeps the machines of Sovereign. Made by sovereign-build device install, and
# taken away by sovereign-build device remove.
setsid $program --android </dev/null >/dev/null 2>&1 &
END
}

uninstall() {
	if [ "$(id -u)" = 0 ]; then
		rm -f "$hook" || fail "$hook cannot be removed"
		for old in "$hooks"/.sovereign.*; do rm -f "$old"; done
	fi
	end "$program (deleted)" # one of these may start one of the others
	end "$program"
	if [ "$(id -u)" = 0 ] && [ -x "$program" ]; then
		said=$("$program" --android undo 2>&1) || fail "$said"
	fi
	[ ! -e "$dir/.made-service.d" ] || rmdir "$hooks" 2>/dev/null
	rm -f "$dir"/.new.* "$dir/.made-service.d" "$beside" "$program" || fail "$program cannot be removed"
	if [ "$1" = data ]; then rm -rf "$state" || fail "$state cannot be removed"; fi
	rmdir "$dir" 2>/dev/null
	sync
	return 0
}

main() {
	export LC_ALL=C PATH="$PATH:/system/bin:/data/adb/ksu/bin:/data/adb/ap/bin:/debug_ramdisk"
	umask 077
	# What is begun is done, whoever has gone away.
	trap '' HUP INT PIPE
	facts
	read -r word more || exit 0
	case $word in
	put | keep) install "$word" "$more" ;;
	beside)
		place
		receive "$beside" "$more" 700
		;;
	remove) uninstall "$more" ;;
	*) exit 0 ;;
	esac
	say finished
}
main
