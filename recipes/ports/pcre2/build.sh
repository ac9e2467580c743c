#!/bin/sh -eu
# pcre2: the library for text of 8-bit units, shared. No compiler to machine
# code at run time (JIT), which a service may not have: its memory is either
# written or executed.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack pcre2
./configure --host="$TARGET" --build=x86_64-pc-linux-gnu --prefix=/usr --libdir=/usr/lib \
	--enable-shared --disable-static --disable-jit --disable-pcre2grep-jit \
	--disable-pcre2grep-callout --disable-pcre2test-libreadline
make libpcre2-8.la
make DESTDIR="$OUT" install-libLTLIBRARIES LTLIBRARIES=libpcre2-8.la lib_LTLIBRARIES=libpcre2-8.la
make DESTDIR="$OUT" install-nodist_includeHEADERS
mkdir -p "$OUT/usr/lib/pkgconfig"
cp libpcre2-8.pc "$OUT/usr/lib/pkgconfig/"
strip_out
