#!/bin/sh
# Installs what this machine lacks, by Debian package name, and says so.
# Usage: scripts/setup.sh GROUP...   groups: build, run, demo, test, phone, forge
set -eu

# Each line: group, Debian package, a command or file that shows it is there.
needs='
build mmdebstrap mmdebstrap
build runc runc
build ca-certificates /etc/ssl/certs/ca-certificates.crt
run qemu-system-HOST qemu-system-MACHINE
demo postgresql-client psql
test gcc gcc
test libc6-dev /usr/include/stdio.h
test flex flex
test bison bison
test xz-utils xz
test patch patch
test qemu-system-x86 qemu-system-x86_64
test qemu-system-arm qemu-system-aarch64
test erofs-utils fsck.erofs
test cryptsetup-bin veritysetup
test gdisk sgdisk
test dosfstools fsck.vfat
test mtools mcopy
test qemu-utils qemu-img
test ovmf /usr/share/OVMF/OVMF_CODE_4M.fd
test systemd-boot-efi /usr/lib/systemd/boot/efi/linuxx64.efi.stub
test qemu-efi-aarch64 /usr/share/AAVMF/AAVMF_CODE.fd
test e2fsprogs mkfs.ext4
test acl setfacl
test attr setfattr
test zstd zstd
test libarchive-tools bsdtar
test busybox-static /bin/busybox
test iproute2 ip
test openssh-client ssh
test adb adb
test openssh-client ssh-keygen
test util-linux unshare
test libfaketime /usr/lib/*-linux-gnu/faketime/libfaketime.so.1
test minisign minisign
test shellcheck shellcheck
test postgresql-client psql
test postgresql /usr/lib/postgresql/*/bin/postgres
phone adb adb
forge chromium chromium
forge git-lfs git-lfs
forge openssh-client ssh-keygen
'
case $(uname -m) in
x86_64) host=x86 machine=x86_64 ;;
aarch64) host=arm machine=aarch64 ;;
*) echo "setup: this machine is $(uname -m); only x86_64 and aarch64 are known" >&2; exit 3 ;;
esac

missing=$(
	echo "$needs" | sed "s/HOST/$host/; s/MACHINE/$machine/" | while read -r group package proof; do
		for wanted in "$@"; do
			[ "$group" = "$wanted" ] || continue
			# shellcheck disable=SC2086 # a file may be a pattern
			case $proof in
			/*) ls $proof >/dev/null 2>&1 || echo "$package" ;;
			*) PATH=$PATH:/usr/sbin:/sbin command -v "$proof" >/dev/null || echo "$package" ;;
			esac
		done
	done | sort -u | tr '\n' ' '
)
[ -n "${missing% }" ] || exit 0

echo "setup: installing Debian packages: $missing"
sudo=
if [ "$(id -u)" != 0 ]; then
	sudo=$(command -v sudo) || {
		echo "setup: not root, and there is no sudo; as root, run: apt-get install $missing" >&2
		exit 3
	}
fi
# shellcheck disable=SC2086 # both are lists of words
{
	$sudo apt-get update -q
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
}
