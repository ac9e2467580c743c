#!/bin/sh -eu
# musl: one shared object that is C library and loader at once, placed as
# Alpine does: /lib/ld-musl-ARCH.so.1 is the file, libc.musl-ARCH.so.1 (its
# soname) and usr/lib/libc.so lead to it.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack musl
apply_patches

LDFLAGS="-Wl,-soname,libc.musl-$ARCH.so.1" \
	LIBCC=$("$CC" -print-libgcc-file-name) \
	./configure --target="$TARGET" --prefix=/usr --syslibdir=/lib \
	--disable-wrapper --enable-optimize=yes
make
make DESTDIR="$OUT" install

rm -f "$OUT/lib/ld-musl-$ARCH.so.1"
mv "$OUT/usr/lib/libc.so" "$OUT/lib/ld-musl-$ARCH.so.1"
ln -s "ld-musl-$ARCH.so.1" "$OUT/lib/libc.musl-$ARCH.so.1"
ln -s "../../lib/ld-musl-$ARCH.so.1" "$OUT/usr/lib/libc.so"
strip_out
