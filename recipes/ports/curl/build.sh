#!/bin/sh -eu
# curl: the library, with HTTP and HTTPS alone, which is what git asks of it.
# No program.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack curl
./configure --host="$TARGET" --build=x86_64-pc-linux-gnu --prefix=/usr --libdir=/usr/lib \
	--enable-shared --disable-static --disable-debug --disable-curldebug \
	--with-openssl --with-zlib --with-ca-bundle=/etc/ssl/certs/ca-certificates.crt --without-ca-path \
	--disable-dict --disable-file --disable-ftp --disable-gopher --disable-imap \
	--disable-ldap --disable-ldaps --disable-mqtt --disable-pop3 --disable-rtsp \
	--disable-smb --disable-smtp --disable-telnet --disable-tftp --disable-ipfs --disable-websockets \
	--disable-manual --disable-docs --disable-libcurl-option --disable-ntlm --disable-aws \
	--disable-unix-sockets --disable-doh --disable-alt-svc \
	--without-brotli --without-zstd --without-libpsl --without-libidn2 --without-nghttp2 --without-libssh2
make -C lib
make -C lib DESTDIR="$OUT" install
make -C include DESTDIR="$OUT" install
mkdir -p "$OUT/usr/lib/pkgconfig"
# configure writes where it found zlib and OpenSSL.
sed "s|$SYSROOT||g" libcurl.pc >"$OUT/usr/lib/pkgconfig/libcurl.pc"
strip_out
