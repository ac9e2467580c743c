#!/bin/sh -eu
# compiler-rt: libclang_rt.builtins.a and crtbegin/crtend, where the wrappers'
# resource directory looks for them. The first piece of code for the target.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack musl
make ARCH="$ARCH" prefix=/usr DESTDIR="$WORK/headers" install-headers

unpack llvm cmake compiler-rt/cmake compiler-rt/lib/builtins compiler-rt/include \
	compiler-rt/CMakeLists.txt llvm/cmake
mkdir "$WORK/build"
cd "$WORK/build"
cmake -G Ninja "$OLDPWD/compiler-rt/lib/builtins" \
	-DCMAKE_SYSTEM_NAME=Linux \
	-DCMAKE_BUILD_TYPE=Release \
	-DCMAKE_C_COMPILER="$CC" -DCMAKE_C_COMPILER_TARGET="$TARGET" \
	-DCMAKE_ASM_COMPILER="$CC" -DCMAKE_ASM_COMPILER_TARGET="$TARGET" \
	-DCMAKE_AR="$(command -v llvm-ar)" -DCMAKE_RANLIB="$(command -v llvm-ranlib)" \
	-DCMAKE_NM="$(command -v llvm-nm)" \
	-DCMAKE_C_FLAGS="-isystem $WORK/headers/usr/include -fno-stack-protector" \
	-DCMAKE_C_FLAGS_RELEASE="-O2 -DNDEBUG" \
	-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY \
	-DCMAKE_INSTALL_PREFIX=/usr/lib/clang/19 \
	-DLLVM_CMAKE_DIR="$OLDPWD/llvm/cmake" \
	-DLLVM_ENABLE_PER_TARGET_RUNTIME_DIR=OFF \
	-DCOMPILER_RT_OS_DIR=linux \
	-DCOMPILER_RT_DEFAULT_TARGET_ONLY=ON \
	-DCOMPILER_RT_BAREMETAL_BUILD=OFF \
	-DCOMPILER_RT_BUILD_CRT=ON \
	-DCOMPILER_RT_CRT_USE_EH_FRAME_REGISTRY=OFF
DESTDIR=$OUT ninja -j "$JOBS" install
find "$OUT" -name '*.a' -o -name '*.o' | sort
strip_out
