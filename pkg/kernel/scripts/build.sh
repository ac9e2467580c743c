# Documentation and self-tests are not built; Documentation/Kconfig is read.
unpack_linux --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*'
cd linux
apply_patches
configure
case $KARCH in
x86)
	kmake bzImage
	cp arch/x86/boot/bzImage "$out/bzImage"
	;;
arm64)
	kmake Image
	cp arch/arm64/boot/Image "$out/Image"
	;;
*)
	echo "KARCH is $KARCH; x86 and arm64 are known" >&2
	exit 1
	;;
esac
kmake kernelrelease >"$out/kernel.release"
chmod 0644 "$out"/*
