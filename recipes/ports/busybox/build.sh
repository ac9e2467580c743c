#!/bin/sh -eu
# busybox: the applets that busybox.config asks for, linked to /bin/busybox.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack busybox
export KCONFIG_NOTIMESTAMP=1

# From busybox's own defaults everything is turned off, then on what
# busybox.config asks for. (allnoconfig overrides what it is given.)
make HOSTCC="$HOSTCC" defconfig >/dev/null
sed -n 's/^\(CONFIG_[A-Za-z0-9_]*\)=.*/\1/p' "$PORT/busybox.config" >"$WORK/asked"
sed 's/^\(CONFIG_[A-Za-z0-9_]*\)=y$/# \1 is not set/' .config | grep -vwFf "$WORK/asked" >"$WORK/base"
cat "$WORK/base" "$PORT/busybox.config" >.config
yes '' | make HOSTCC="$HOSTCC" oldconfig >"$WORK/oldconfig.log" || die "oldconfig: $(tail -n 5 "$WORK/oldconfig.log")"

# An unmet dependency drops a symbol without a word: compare.
grep '^CONFIG_' "$PORT/busybox.config" | while IFS= read -r asked; do
	grep -qxF "$asked" .config || die "busybox.config asks for $asked, which the final .config lacks"
done

# "make busybox" and "make install" race when they are one command.
set -- ARCH="$ARCH" CC="$CC" AR="$AR" NM="$NM" STRIP="$STRIP" OBJCOPY="$OBJCOPY" \
	HOSTCC="$HOSTCC" LD="$LD" SKIP_STRIP=y
make "$@" busybox
make "$@" CONFIG_PREFIX="$OUT" install
strip_out
