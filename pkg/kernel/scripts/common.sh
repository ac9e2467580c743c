# Shared head of the kernel's two steps, joined to config.sh or build.sh by
# pkg/kernel. In: /src/linux, the source tarball; /src/fragments.config, the
# merged fragments; /src/patches/*.patch, if there are any; KARCH=x86|arm64,
# SOURCE_DATE_EPOCH, JOBS. Out: files in $OUT, /out by default. Runs under
# sh -eu in an empty directory, with no network.
export LC_ALL=C TZ=UTC
JOBS=${JOBS:-$(nproc)}
out=${OUT:-/out}
linux=${SRC:-/src}/linux
fragments=${SRC:-/src}/fragments.config
patches=${SRC:-/src}/patches
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
	make -s -j"$JOBS" ARCH="$KARCH" LLVM=-19 "$@"
}

# unpack_linux FLAGS… unpacks the source into linux/. An xz file made of several
# blocks, as Debian's are, is read by as many threads as there are jobs.
unpack_linux() {
	if xz -l "$linux" >/dev/null 2>&1; then
		xz -dc -T"$JOBS" "$linux" | tar -x -C linux --strip-components=1 "$@"
	else
		tar -xf "$linux" -C linux --strip-components=1 "$@"
	fi
}

# patched prints the files of the source that the patches change.
patched() {
	[ ! -d "$patches" ] || sed -n 's,^--- a/\([^	 ]*\).*,\1,p' "$patches"/*.patch | sort -u
}

# apply_patches changes the source in the current directory. Nothing is guessed
# (-F0): a patch that no longer fits is for its author to look at.
apply_patches() {
	[ -d "$patches" ] || return 0
	for patch in "$patches"/*.patch; do
		echo "${patch##*/}"
		patch -p1 -f -N -F0 --no-backup-if-mismatch -i "$patch"
	done
}

# configure turns the fragments into .config: what no fragment names is n.
# $out/kconfig.notes has what Kconfig says about symbols that did not make it,
# and is empty when all did.
configure() {
	KCONFIG_WARN_UNKNOWN_SYMBOLS=1 KCONFIG_ALLCONFIG="$fragments" \
		kmake allnoconfig >kconfig.log 2>&1 || { cat kconfig.log >&2; exit 1; }
	cp .config before-olddefconfig
	kmake olddefconfig
	cmp -s .config before-olddefconfig || {
		echo "olddefconfig changed the configuration again:" >&2
		diff before-olddefconfig .config >&2
		exit 1
	}
	cp .config "$out/kernel.config"
	sed -n 's/.*warning: unknown symbol: /unknown /p' kconfig.log | sort -u >"$out/kconfig.notes"
	grep -vxFf .config "$fragments" | sed -n 's/^CONFIG_\([A-Za-z0-9_]*\)=.*/\1/p' >missing || :
	if [ -s missing ]; then
		explain missing >>"$out/kconfig.notes"
	fi
}

# explain FILE prints "depends SYMBOL KCONFIG:LINE EXPRESSION" for each symbol
# of the file that has an entry in Kconfig: its own "depends on" and those of
# the blocks around it in the same Kconfig file.
explain() {
	find . -name 'Kconfig*' -type f ! -path './arch/*' -o -path "./arch/$KARCH/*" -name 'Kconfig*' -type f |
		sed 's,^\./,,' | sort | xargs awk -v list="$1" '
		function flush(  i, e) {
			if (hit == "") return
			for (i = 1; i <= depth; i++) if (block[i] != "") e = e (e == "" ? "" : " && ") "(" block[i] ")"
			if (own != "") e = e (e == "" ? "" : " && ") own
			print "depends " hit " " at " " (e == "" ? "y" : e)
			hit = ""
		}
		FILENAME == list { want[$1]; next }
		FNR == 1 { flush(); depth = 0; context = "" }
		/^[ \t]*(config|menuconfig)[ \t]+[A-Za-z0-9_]+[ \t]*$/ {
			flush(); context = "config"; own = ""
			if ($2 in want) { hit = $2; at = FILENAME ":" FNR }
			next
		}
		/^if[ \t]/ { flush(); context = "if"; block[++depth] = substr($0, 4); next }
		/^(menu|choice)([ \t]|$)/ { flush(); context = "menu"; block[++depth] = ""; next }
		/^(endif|endmenu|endchoice)/ { flush(); context = ""; if (depth > 0) depth--; next }
		/^(source|comment)[ \t]/ { flush(); context = ""; next }
		/^[ \t]+depends on / {
			e = $0; sub(/^[ \t]+depends on /, "", e); sub(/[ \t]*#.*/, "", e); e = "(" e ")"
			if (context == "config") own = own (own == "" ? "" : " && ") e
			else if (context == "menu") block[depth] = block[depth] (block[depth] == "" ? "" : " && ") e
		}
		END { flush() }
	' "$1"
}
