#!/bin/sh -eu
# libcxx: libunwind, libc++abi and libc++ as one shared libc++.so.1, so that a
# C++ program needs one library and C programs need none of it.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack llvm cmake runtimes libcxx/CMakeLists.txt libcxx/cmake libcxx/include \
	libcxx/src libcxx/modules libcxx/utils libcxx/vendor libcxxabi libunwind llvm/cmake \
	llvm/utils/llvm-lit
top=$PWD
mkdir "$WORK/build"
cd "$WORK/build"

# cmake's first test links a C++ program, which needs a libc++ to exist.
mkdir "$WORK/stub"
llvm-ar rc "$WORK/stub/libc++.a"

cmake -G Ninja "$top/runtimes" \
	-DLLVM_ENABLE_RUNTIMES='libunwind;libcxxabi;libcxx' \
	-DCMAKE_SYSTEM_NAME=Linux \
	-DCMAKE_BUILD_TYPE=Release \
	-DCMAKE_C_COMPILER="$CC" -DCMAKE_CXX_COMPILER="$CXX" -DCMAKE_ASM_COMPILER="$CC" \
	-DCMAKE_C_COMPILER_TARGET="$TARGET" -DCMAKE_CXX_COMPILER_TARGET="$TARGET" \
	-DCMAKE_ASM_COMPILER_TARGET="$TARGET" \
	-DCMAKE_AR="$(command -v llvm-ar)" -DCMAKE_RANLIB="$(command -v llvm-ranlib)" \
	-DCMAKE_NM="$(command -v llvm-nm)" -DCMAKE_STRIP="$(command -v llvm-strip)" \
	-DCMAKE_C_FLAGS_RELEASE="-O2 -DNDEBUG" -DCMAKE_CXX_FLAGS_RELEASE="-O2 -DNDEBUG" \
	-DCMAKE_EXE_LINKER_FLAGS="-L$WORK/stub" -DCMAKE_SHARED_LINKER_FLAGS="-L$WORK/stub" \
	-DCMAKE_INSTALL_PREFIX=/usr \
	-DLLVM_INCLUDE_TESTS=OFF -DLLVM_INCLUDE_DOCS=OFF \
	-DLLVM_ENABLE_PER_TARGET_RUNTIME_DIR=OFF \
	-DLIBUNWIND_ENABLE_SHARED=OFF -DLIBUNWIND_ENABLE_STATIC=ON \
	-DLIBUNWIND_INCLUDE_TESTS=OFF -DLIBUNWIND_HIDE_SYMBOLS=OFF \
	-DCMAKE_POSITION_INDEPENDENT_CODE=ON \
	-DLIBUNWIND_USE_COMPILER_RT=ON -DLIBUNWIND_INSTALL_LIBRARY=OFF \
	-DLIBCXXABI_ENABLE_SHARED=OFF -DLIBCXXABI_ENABLE_STATIC=ON \
	-DLIBCXXABI_USE_COMPILER_RT=ON -DLIBCXXABI_USE_LLVM_UNWINDER=ON \
	-DLIBCXXABI_ENABLE_STATIC_UNWINDER=ON -DLIBCXXABI_INCLUDE_TESTS=OFF \
	-DLIBCXXABI_INSTALL_LIBRARY=OFF \
	-DLIBUNWIND_ENABLE_ASSERTIONS=OFF -DLIBCXXABI_ENABLE_ASSERTIONS=OFF \
	-DLIBCXX_HAS_MUSL_LIBC=ON -DLIBCXX_HAS_ATOMIC_LIB=OFF \
	-DLIBCXX_USE_COMPILER_RT=ON \
	-DLIBCXX_ENABLE_STATIC=OFF -DLIBCXX_ENABLE_SHARED=ON \
	-DLIBCXX_ENABLE_STATIC_ABI_LIBRARY=ON \
	-DLIBCXX_INCLUDE_TESTS=OFF -DLIBCXX_INCLUDE_BENCHMARKS=OFF \
	-DLIBCXX_INSTALL_MODULES=OFF
ninja -j "$JOBS" cxx_shared
DESTDIR=$OUT cmake --install . --component cxx-headers
install -d "$OUT/usr/lib"
install -m 0755 lib/libc++.so.1.0 "$OUT/usr/lib/libc++.so.1.0"
ln -s libc++.so.1.0 "$OUT/usr/lib/libc++.so.1"
ln -s libc++.so.1 "$OUT/usr/lib/libc++.so"
strip_out
