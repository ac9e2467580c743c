#!/bin/sh -eu
# linux-headers: the kernel's interface for programs, from the kernel's source.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

# What headers_install reads, and nothing else of 1.5 GB.
case $KARCH in
x86) tables="arch/x86/entry/syscalls arch/x86/tools" ;;
*) tables=arch/$KARCH/tools ;;
esac
# shellcheck disable=SC2086 # tables are words
unpack linux Makefile scripts include/uapi include/asm-generic tools/include \
	"arch/$KARCH/Makefile" "arch/$KARCH/include" $tables

make ARCH="$KARCH" LLVM=-19 HOSTCC="$HOSTCC" headers
mkdir -p "$OUT/usr"
cp -r usr/include "$OUT/usr/include"
find "$OUT" ! -name '*.h' -type f -delete
# musl has its own scsi headers of these names.
rm -f "$OUT/usr/include/scsi/scsi.h" "$OUT/usr/include/scsi/sg.h" \
	"$OUT/usr/include/scsi/scsi_ioctl.h"
rm -rf "$OUT/usr/include/drm"
