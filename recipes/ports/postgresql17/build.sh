#!/bin/sh -eu
# postgresql17: server, client programs and the extensions worth having, with
# ICU, OpenSSL and zlib. Placed as Alpine does: programs in
# /usr/libexec/postgresql17 with links in /usr/bin, so that another major
# version can stand beside it for an upgrade; sockets in /run/postgresql.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack postgresql17

sed -i 's|^\(#define DEFAULT_PGSOCKET_DIR *\).*|\1"/run/postgresql"|' src/include/pg_config_manual.h
grep -q '^#define DEFAULT_PGSOCKET_DIR.*"/run/postgresql"' src/include/pg_config_manual.h ||
	die "pg_config_manual.h has no DEFAULT_PGSOCKET_DIR to set"

# pg_config shows flags and arguments, and these variables are among them:
# nothing with a path of this build goes in.
unset PKG_CONFIG_PATH PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR
# A cross configure takes for granted that the linker cannot export symbols of
# programs (LDFLAGS_EX_BE), and then dict_snowball.so finds no backend.
ICU_CFLAGS=' ' ICU_LIBS='-licui18n -licuuc' LDFLAGS_EX_BE=-Wl,--export-dynamic \
	./configure --host="$TARGET" --build=x86_64-pc-linux-gnu \
	--prefix=/usr --bindir=/usr/libexec/postgresql17 --libdir=/usr/lib/postgresql17 \
	--datadir=/usr/share/postgresql17 --sysconfdir=/etc/postgresql17 \
	--includedir=/usr/include/postgresql \
	--with-template=linux --disable-rpath --disable-nls \
	--with-icu --with-ssl=openssl --with-zlib --without-readline \
	--with-system-tzdata=/usr/share/zoneinfo

# No ecpg, regression tests or documentation. Headers first: all share them.
make -C src/backend generated-headers
for part in src/common src/port src/timezone src/interfaces/libpq src/backend \
	src/backend/utils/mb/conversion_procs src/backend/snowball src/include \
	src/backend/replication/libpqwalreceiver src/backend/replication/pgoutput \
	src/fe_utils src/bin src/pl/plpgsql; do
	make -C "$part" all
	make -C "$part" DESTDIR="$OUT" install
done

# Extensions; the list is in port.yaml too. pg_stat_statements and amcheck are
# what an operator needs, the rest is cheap and often asked for.
for extension in amcheck auto_explain btree_gin btree_gist citext hstore pageinspect \
	pg_buffercache pg_prewarm pg_stat_statements pg_trgm pg_visibility pgcrypto \
	pgstattuple postgres_fdw unaccent; do
	make -C "contrib/$extension" all
	make -C "contrib/$extension" DESTDIR="$OUT" install
done

# The client library belongs to everyone; the programs are found in PATH.
lib=$OUT/usr/lib/postgresql17
mv "$lib"/libpq.so* "$lib"/*.a "$lib"/pkgconfig "$OUT/usr/lib/"
sed -i 's|^libdir=.*|libdir=/usr/lib|' "$OUT"/usr/lib/pkgconfig/*.pc
mkdir -p "$OUT/usr/bin"
for program in "$OUT"/usr/libexec/postgresql17/*; do
	name=$(basename "$program")
	ln -s "../libexec/postgresql17/$name" "$OUT/usr/bin/$name"
done
strip_out
