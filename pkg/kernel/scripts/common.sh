# Shared head of the kernel's two steps, joined to config.sh or build.sh by
# pkg/kernel. In: /src/linux, the source tarball; /src/fragments.config, the
# merged fragments; KARCH=x86|arm64, SOURCE_DATE_EPOCH, JOBS. Out: files in
# $OUT, /out by default. Runs under sh -eu in an empty directory, with no
# network.
export LC_ALL=C TZ=UTC
out=${OUT:-/out}
linux=${SRC:-/src}/linux
fragments=${SRC:-/src}/fragments.config
mkdir -p "$out" linux

# What the kernel says of its own making (/proc/version) is the source date and
# fixed names, so that no machine shows through.
KBUILD_BUILD_TIMESTAMP=$(date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %e %H:%M:%S UTC %Y')
export KBUILD_BUILD_TIMESTAMP
export KBUILD_BUILD_USER=sovereign KBUILD_BUILD_HOST=sovereign KBUILD_BUILD_VERSION=1

# One compiler family for both architectures. Nothing is written outside the
# source tree, so no absolute path gets into the result. V= and -s keep logs
# short.
kmake() {
	make -s -j"${JOBS:-1}" ARCH="$KARCH" LLVM=-19 "$@"
}

# unpack_linux FLAGS… unpacks the source into linux/. An xz file made of several
# blocks, as Debian's are, is read by as many threads as there are jobs.
unpack_linux() {
	if xz -l "$linux" >/dev/null 2>&1; then
		xz -dc -T"${JOBS:-1}" "$linux" | tar -x -C linux --strip-components=1 "$@"
	else
		tar -xf "$linux" -C linux --strip-components=1 "$@"
	fi
}

# configure turns the fragments into .config: what no fragment names is n.
# Symbols that Kconfig does not know are listed in $out/unknown-symbols, one a
# line; the file is empty when there are none. Everything else Kconfig says is
# the caller's to see by comparing the result with what was asked.
configure() {
	KCONFIG_WARN_UNKNOWN_SYMBOLS=1 KCONFIG_ALLCONFIG="$fragments" \
		kmake allnoconfig >kconfig.log 2>&1 || { cat kconfig.log >&2; exit 1; }
	sed -n 's/.*warning: unknown symbol: //p' kconfig.log | sort -u >"$out/unknown-symbols"
	cp .config before-olddefconfig
	kmake olddefconfig
	cmp -s .config before-olddefconfig || {
		echo "olddefconfig changed the configuration again:" >&2
		diff before-olddefconfig .config >&2
		exit 1
	}
	cp .config "$out/kernel.config"
}
