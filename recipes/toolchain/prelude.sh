# shellcheck shell=sh
# prelude.sh is sourced by every port's build step before its build.sh.
#
# In:  ARCH TARGET KARCH JOBS SRC SYSROOT OUT SOURCE_DATE_EPOCH, the working
#      directory (empty, any path), the toolchain image's clang 19 and lld 19.
# Out: $TARGET-clang and its relatives first in PATH, CC CXX CPP LD AR NM RANLIB
#      STRIP OBJCOPY READELF CFLAGS CXXFLAGS LDFLAGS PKG_CONFIG_*, HOSTCC, WORK
#      (the working directory) and the functions of lib.sh.
#
# Nothing here may end up in an artifact: paths are mapped away inside the
# wrapper's configuration file, because programs such as PostgreSQL and OpenSSL
# write CFLAGS and configure's arguments into what they build.

: "${ARCH:?}" "${TARGET:?}" "${TOOLCHAIN:?}" "${JOBS:?}" "${SRC:?}" "${OUT:?}" "${SOURCE_DATE_EPOCH:?}"

WORK=$(pwd -P)
SYSROOT=${SYSROOT:-/sysroot}
LLVM_BIN=/usr/lib/llvm-19/bin
umask 022
export WORK SYSROOT LLVM_BIN

# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

# The wrappers. clang gets its configuration file
# by name, so that no configuration of the image slips in.
# libunwind is inside libc++ (see that port): C links no unwinder.
#
# musl's loader does all of a program's relocations before it starts. Those
# that add the load address are packed (RELR, a word for up to 63 of them
# instead of 24 bytes each), and a library's calls of its own functions need no
# look-up by name.
TOOLS=$WORK/.toolchain
mkdir -p "$TOOLS/bin" "$TOOLS/resource"

# clang's own headers from the image, compiler-rt from the sysroot.
ln -sfn /usr/lib/llvm-19/lib/clang/19/include "$TOOLS/resource/include"
if [ -d "$SYSROOT/usr/lib/clang/19/lib" ]; then
	ln -sfn "$SYSROOT/usr/lib/clang/19/lib" "$TOOLS/resource/lib"
fi

# RESOURCE_DIR is where compiler-rt's own port finds the headers.
RESOURCE_DIR=$TOOLS/resource
export RESOURCE_DIR

cat >"$TOOLS/cc.cfg" <<END
--target=$TARGET
--sysroot=$SYSROOT
-resource-dir=$TOOLS/resource
-rtlib=compiler-rt
-unwindlib=none
-fuse-ld=lld
-fstack-protector-strong
-U_FORTIFY_SOURCE
-fno-ident
-ffile-prefix-map=$WORK/=
-ffile-prefix-map=$SYSROOT/=/
-ffile-prefix-map=$TOOLS/resource/=/clang/
-ffile-prefix-map=/usr/lib/llvm-19/lib/clang/19/=/clang/
-Wno-unused-command-line-argument
-Wno-builtin-macro-redefined
-Wl,-z,stack-size=2097152
-Wl,-z,relro
-Wl,-z,now
-Wl,--as-needed
-Wl,--build-id=none
-Wl,--hash-style=gnu
-Wl,--pack-dyn-relocs=relr
-Wl,-Bsymbolic-non-weak-functions
-Wl,--undefined-version
END

# libc++ lives beside libc; before its port is built a C port needs neither.
cp "$TOOLS/cc.cfg" "$TOOLS/cxx.cfg"
cat >>"$TOOLS/cxx.cfg" <<END
-stdlib=libc++
END

wrapper() {
	printf '#!/bin/sh\nexec %s --no-default-config --config=%s "$@"\n' "$2" "$3" >"$TOOLS/bin/$1"
	chmod 0755 "$TOOLS/bin/$1"
}
wrapper "$TARGET-clang" "$LLVM_BIN/clang" "$TOOLS/cc.cfg"
wrapper "$TARGET-clang++" "$LLVM_BIN/clang++" "$TOOLS/cxx.cfg"
ln -sf "$TARGET-clang" "$TOOLS/bin/$TARGET-cc"
ln -sf "$TARGET-clang++" "$TOOLS/bin/$TARGET-c++"
for tool in ar nm ranlib strip objcopy objdump readelf size strings; do
	ln -sf "$LLVM_BIN/llvm-$tool" "$TOOLS/bin/llvm-$tool"
	ln -sf "$LLVM_BIN/llvm-$tool" "$TOOLS/bin/$TARGET-$tool"
done
ln -sf "$LLVM_BIN/ld.lld" "$TOOLS/bin/$TARGET-ld"
# pkg-config sees the sysroot only.
ln -sf /usr/bin/pkg-config "$TOOLS/bin/$TARGET-pkg-config"
# Programs that run during a build are made by the same compiler for the host.
ln -sf "$LLVM_BIN/clang" "$TOOLS/bin/host-clang"
ln -sf "$LLVM_BIN/clang++" "$TOOLS/bin/host-clang++"

PATH=$TOOLS/bin:$PATH
CC=$TARGET-clang
CXX=$TARGET-clang++
CPP="$TARGET-clang -E"
LD=$TARGET-ld
AR=llvm-ar
NM=llvm-nm
RANLIB=llvm-ranlib
STRIP=llvm-strip
OBJCOPY=llvm-objcopy
READELF=llvm-readelf
HOSTCC=host-clang
HOSTCXX=host-clang++
CFLAGS=-O2
CXXFLAGS=-O2
LDFLAGS=
export PATH CC CXX CPP LD AR NM RANLIB STRIP OBJCOPY READELF HOSTCC HOSTCXX CFLAGS CXXFLAGS LDFLAGS

PKG_CONFIG=$TARGET-pkg-config
PKG_CONFIG_PATH=
PKG_CONFIG_LIBDIR=$SYSROOT/usr/lib/pkgconfig:$SYSROOT/usr/share/pkgconfig
PKG_CONFIG_SYSROOT_DIR=$SYSROOT
export PKG_CONFIG PKG_CONFIG_PATH PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR

# llvm-ar, llvm-ranlib and llvm-strip are deterministic by default; make's
# parallel output is not worth a diff, its order is.
MAKEFLAGS=-j$JOBS
export MAKEFLAGS
