#!/bin/sh -eu
# openssl: libcrypto, libssl, the legacy provider and the openssl program. No
# static libraries (they would compile everything a second time), tests or
# manual pages; ciphers that nobody should use are left out as Alpine does.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack openssl

case $ARCH in
x86_64) target=linux-x86_64 options=enable-ec_nistp_64_gcc_128 ;;
aarch64) target=linux-aarch64 options=enable-ec_nistp_64_gcc_128 ;;
*) die "no OpenSSL target for $ARCH" ;;
esac

# no-async: musl has no ucontext. The date of the build is SOURCE_DATE_EPOCH.
perl ./Configure "$target" "$options" \
	--prefix=/usr --libdir=lib --openssldir=/etc/ssl \
	shared no-async no-comp no-docs no-tests no-static-engine no-engine \
	no-idea no-mdc2 no-ec2m no-seed no-md4 no-whirlpool no-sctp no-srp
make build_generated
make libcrypto.so libssl.so providers/legacy.so apps/openssl \
	exporters/libcrypto.pc exporters/libssl.pc exporters/openssl.pc

install -d "$OUT/usr/bin" "$OUT/usr/lib/ossl-modules" "$OUT/usr/lib/pkgconfig" \
	"$OUT/usr/include/openssl" "$OUT/etc/ssl/certs" "$OUT/etc/ssl/private"
install -m 0755 apps/openssl "$OUT/usr/bin/openssl"
for library in libcrypto libssl; do
	install -m 0755 "$library.so.3" "$OUT/usr/lib/$library.so.3"
	ln -s "$library.so.3" "$OUT/usr/lib/$library.so"
done
install -m 0755 providers/legacy.so "$OUT/usr/lib/ossl-modules/legacy.so"
install -m 0644 include/openssl/*.h "$OUT/usr/include/openssl/"
install -m 0644 apps/openssl.cnf "$OUT/etc/ssl/openssl.cnf"
strip_out

# The .pc files with prefix and directories of the installed place.
for module in libcrypto libssl openssl; do
	sed -e 's|^prefix=.*|prefix=/usr|' -e 's|^exec_prefix=.*|exec_prefix=/usr|' \
		-e 's|^libdir=.*|libdir=/usr/lib|' -e 's|^includedir=.*|includedir=/usr/include|' \
		"exporters/$module.pc" >"$OUT/usr/lib/pkgconfig/$module.pc"
done
