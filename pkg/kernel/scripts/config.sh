# Only what Kconfig reads is unpacked, about a fiftieth of the files: Kconfig
# files, makefiles, scripts, and the headers that compiler checks include.
# Before them, as tar counts a file for the first pattern that fits: what
# patches change, which may be a Kconfig file too.
# shellcheck disable=SC2046 # a file is one word
unpack_linux --wildcards \
	--no-wildcards-match-slash $(patched | sed 's,^,*/,') --wildcards-match-slash \
	'*/Kconfig*' '*/Makefile*' '*/Kbuild*' '*/scripts/*' \
	'*/arch/*/*.config' '*/arch/*/configs/*' '*/arch/*/tools/*'
cd linux
apply_patches
configure
