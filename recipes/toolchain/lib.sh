# shellcheck shell=sh
# lib.sh holds the functions of build scripts. The prelude sources it, and each
# build.sh does, so that a script works whether it is sourced after the prelude
# or run as a process of its own. It needs the prelude's variables.

# die MESSAGE: ends the step.
die() {
	echo "error: $*" >&2
	exit 1
}

# unpack NAME [PATTERN…] extracts $SRC/NAME into $WORK/NAME and changes into
# the source's top directory. A pattern names a subdirectory or file relative
# to the top and keeps a big tarball's extraction short; without one
# everything is extracted.
unpack() {
	unpack_name=$1
	shift
	unpack_dir=$WORK/$unpack_name
	[ -f "$SRC/$unpack_name" ] || die "source $unpack_name is not at $SRC/$unpack_name: name it in the port's sources"
	rm -rf "$unpack_dir"
	mkdir -p "$unpack_dir"
	for unpack_pattern in "$@"; do
		shift
		set -- "$@" "*/$unpack_pattern"
	done
	XZ_DEFAULTS="-T$JOBS" tar -x -f "$SRC/$unpack_name" -C "$unpack_dir" \
		--no-same-owner --wildcards --no-wildcards-match-slash "$@"
	cd "$unpack_dir" || die "cannot enter $unpack_dir"
	# A tarball with one top directory: enter it.
	set -- *
	if [ $# -eq 1 ] && [ -d "$1" ]; then
		cd "$1" || die "cannot enter $1"
	fi
}

# apply_patches applies the port's *.patch files, sorted, in the current
# directory.
apply_patches() {
	for apply_patch in "$PORT"/*.patch; do
		[ -f "$apply_patch" ] || die "no patches in $PORT"
		patch -p1 --no-backup-if-mismatch -i "$apply_patch"
	done
}

# strip_out removes symbols and debug information from every ELF file in $OUT,
# and libtool's .la files, which name build paths.
strip_out() {
	find "$OUT" -name '*.la' -type f -exec rm -f {} +
	find "$OUT" -type f ! -path '*/include/*' ! -path '*/share/*' | sort >"$WORK/.strip-list"
	while IFS= read -r strip_file; do
		case $(head -c 4 "$strip_file" | od -An -tx1 | tr -d ' ') in
		7f454c46)
			case $strip_file in
			*.o) llvm-strip --strip-debug "$strip_file" ;;
			*) llvm-strip --strip-all "$strip_file" ;;
			esac
			;;
		*)
			case $strip_file in
			*.a) llvm-strip --strip-debug --enable-deterministic-archives "$strip_file" ;;
			esac
			;;
		esac
	done <"$WORK/.strip-list"
}
