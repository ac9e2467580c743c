#!/bin/sh -eu
# icu: the common and i18n libraries; the data is the archive with all locales
# that upstream's tarball brings (byte-identical to what a full build makes),
# so no ICU for the build machine has to be compiled first.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack icu source LICENSE # install-icu copies the licence
cd source

# A cross build asks for the directory of a native one, for its data tools.
# None of them runs here.
cross=$WORK/cross
mkdir -p "$cross/config"
cat >"$cross/config/icucross.mk" <<END
CROSS_ICU_VERSION=$VERSION
TOOLEXEEXT=
TOOLBINDIR=$cross/bin
TOOLLIBDIR=$cross/lib
INVOKE=
END
cat >"$cross/config/icucross.inc" <<END
TOOLBINDIR=$cross/bin
TOOLLIBDIR=$cross/lib
END

# ICU's makefiles take TARGET from the environment for a file of their own.
host=$TARGET
unset TARGET
./configure --host="$host" --build=x86_64-pc-linux-gnu --with-cross-build="$cross" \
	--prefix=/usr --with-data-packaging=archive \
	--disable-tools --disable-tests --disable-samples --disable-extras \
	--disable-icuio --disable-layoutex --disable-icu-config
mkdir -p lib bin # the top makefile would; its "all" wants the data tools
# DEPS= : a single build needs no dependency files, one more compiler run each.
for part in stubdata common i18n; do
	make -C "$part" DEPS=
	make -C "$part" DEPS= DESTDIR="$OUT" install
done
make DESTDIR="$OUT" install-icu

data=$(echo data/in/icudt*l.dat)
[ -f "$data" ] || die "no data archive in the source"
install -D -m 0644 "$data" "$OUT/usr/share/icu/$VERSION/$(basename "$data")"
rm -rf "${OUT:?}/usr/bin" "$OUT/usr/sbin" "$OUT/usr/share/man" "$OUT/usr/lib/icu" \
	"$OUT/usr/share/icu/$VERSION/config" "$OUT/usr/share/icu/$VERSION/install-sh" \
	"$OUT/usr/share/icu/$VERSION/mkinstalldirs" "$OUT/usr/share/icu/$VERSION/LICENSE" \
	"$OUT/usr/lib/pkgconfig/icu-io.pc"
strip_out
