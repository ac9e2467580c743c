#!/bin/sh
# Unpacks Debian's sshd into a directory, for tests. It is not installed: that
# would have this machine listen for the whole network, now and after each
# start.
# Usage: scripts/sshd.sh DIRECTORY
set -eu
dir=$1
part=$dir.part
rm -rf "$part"
mkdir -p "$part/debs"
trap 'rm -rf "$part"' EXIT
cd "$part/debs"
# Its libraries; one that is here already does no harm. Newer suites have
# another name for the last.
tirpc=$(apt-cache pkgnames libtirpc3 | grep -x -e libtirpc3 -e libtirpc3t64 | sort | tail -n 1)
get() { apt-get download -q openssh-server libwrap0 libnsl2 "${tirpc:-libtirpc3}" >&2; }
get || {
	echo "sshd: the package lists of apt may be old: apt-get update" >&2
	sudo=
	if [ "$(id -u)" != 0 ]; then
		sudo=$(command -v sudo) || { echo "sshd: not root, and there is no sudo; as root, run: apt-get update" >&2; exit 3; }
	fi
	$sudo apt-get update -q >&2
	get
}
for deb in *.deb; do dpkg-deb -x "$deb" ..; done
cd - >/dev/null
rm -rf "$part/debs" "$dir"
mv "$part" "$dir"
