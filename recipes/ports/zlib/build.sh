#!/bin/sh -eu
# zlib: one shared library and its static twin.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack zlib
CFLAGS="$CFLAGS -fPIC" ./configure --prefix=/usr --libdir=/usr/lib --sharedlibdir=/usr/lib
make DESTDIR="$OUT" install
rm -rf "${OUT:?}/usr/share"
strip_out
