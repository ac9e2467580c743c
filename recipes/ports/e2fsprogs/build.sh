#!/bin/sh -eu
# e2fsprogs: mke2fs, e2fsck, tune2fs, dumpe2fs and resize2fs with their shared
# libraries. debugfs, fuse2fs, translations and manual pages are not built.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack e2fsprogs

BUILD_CC="$HOSTCC" ./configure --host="$TARGET" --build=x86_64-pc-linux-gnu \
	--prefix=/usr --sysconfdir=/etc --libdir=/usr/lib \
	--enable-elf-shlibs --enable-libuuid --enable-libblkid --enable-verbose-makecmds \
	--disable-nls --disable-rpath --disable-debugfs --disable-imager --disable-defrag \
	--disable-e2initrd-helper --disable-uuidd --disable-fuse2fs --disable-fsck \
	--disable-backtrace --disable-tdb --with-udev-rules-dir=no --with-crond-dir=no \
	--with-systemd-unit-dir=no --without-libarchive
# First the headers that are generated and shared, then the libraries.
make subs
for part in et e2p uuid blkid ext2fs support; do
	make -C "lib/$part" all
done
make -C misc mke2fs tune2fs dumpe2fs mke2fs.conf
make -C e2fsck e2fsck
make -C resize resize2fs

install -d "$OUT/sbin" "$OUT/usr/sbin" "$OUT/lib" "$OUT/etc"
install -m 0755 misc/mke2fs misc/tune2fs e2fsck/e2fsck "$OUT/sbin/"
install -m 0755 misc/dumpe2fs resize/resize2fs "$OUT/usr/sbin/"
for type in ext2 ext3 ext4; do
	ln -s mke2fs "$OUT/sbin/mkfs.$type"
	ln -s e2fsck "$OUT/sbin/fsck.$type"
done
ln -s tune2fs "$OUT/sbin/e2label"
install -m 0644 misc/mke2fs.conf "$OUT/etc/mke2fs.conf"
# Under their sonames; nothing links against them after this.
for library in com_err e2p uuid blkid ext2fs; do
	for file in lib/lib"$library".so.[0-9]; do
		cp -L "$file" "$OUT/lib/$(basename "$file")"
		chmod 0755 "$OUT/lib/$(basename "$file")"
	done
done
strip_out
