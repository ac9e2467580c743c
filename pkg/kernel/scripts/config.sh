# Only what Kconfig reads is unpacked, about a fiftieth of the files: Kconfig
# files, makefiles, scripts, and the headers that compiler checks include.
unpack_linux --wildcards \
	'*/Kconfig*' '*/Makefile*' '*/Kbuild*' '*/scripts/*' \
	'*/arch/*/*.config' '*/arch/*/configs/*' '*/arch/*/tools/*'
cd linux
configure
