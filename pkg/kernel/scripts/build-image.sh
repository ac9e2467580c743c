# The build of a kernel for an architecture whose makefile leaves what boots as
# arch/KARCH/boot/Image. Joined to common.sh as build.sh is.
unpack_linux --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*'
cd linux
apply_patches
configure
kmake Image
cp "arch/$KARCH/boot/Image" "$out/Image"
kmake kernelrelease >"$out/kernel.release"
chmod 0644 "$out"/*
