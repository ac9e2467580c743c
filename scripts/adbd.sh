#!/bin/sh
# Unpacks Debian's adbd, which is the phone's side of adb, its libraries, mksh
# (Android's sh) and busybox into a directory for the test phone. Nothing is
# installed, and the lists of that suite are kept apart from this machine's.
# Usage: scripts/adbd.sh DIRECTORY
set -eu
dir=$1
suite=trixie # the first with an adbd of these years
part=$dir.part
rm -rf "$part"
mkdir -p "$part/apt/lists/partial" "$part/apt/cache/archives/partial" "$part/apt/sources" "$part/debs" "$part/root"
trap 'rm -rf "$part"' EXIT
apt=$(cd "$part/apt" && pwd)

# The mirror and the key are those of this machine's own Debian.
# shellcheck disable=SC2016 # for apt to expand
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null |
	grep '/debian/*$' | grep -v -e security -e archive | sort -u | head -n 1)
if [ -z "$mirror" ]; then
	echo "adbd: apt knows no mirror of Debian; as root, run: apt-get update" >&2
	exit 3
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
arch=$(dpkg --print-architecture)
echo "deb [signed-by=$keyring] $mirror $suite main" >"$apt/sources/suite.list"
: >"$apt/status"
cat >"$apt/apt.conf" <<END
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$apt/sources";
Dir::State "$apt";
Dir::State::Lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Acquire::Languages "none";
APT::Architecture "$arch";
APT::Architectures "$arch";
APT::Sandbox::User "";
END
export APT_CONFIG="$apt/apt.conf"
apt-get update -q >&2
apt-get install -q --download-only --no-install-recommends -y adbd busybox-static mksh >&2
for deb in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$part/root"; done
rm -rf "$part/root/usr/share/doc" "$part/root/usr/share/man" "$part/root/usr/share/locale"
rm -rf "$dir"
mv "$part/root" "$dir"
