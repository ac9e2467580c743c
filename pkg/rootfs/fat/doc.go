// Package fat writes a tree as a FAT16 or FAT32 file system, as firmware wants
// it for an EFI system partition: long file names, two FATs, on FAT32 the FSInfo
// sector and a backup of the boot sectors.
//
// A rootfs.Tree comes in; an image goes out, the same bytes for the same tree:
// every time is the caller's, clusters are taken in the order of paths, and
// the volume's serial number is derived from the contents unless it is given.
// Contents are streamed. What no file has is not written, so that an image
// stays sparse there; the zeros of files are written.
//
// FAT has no owners, modes, extended attributes or links: the first three are
// left out, a hard link becomes a copy, and symbolic links, devices, pipes and
// sockets are refused. Names that differ only in case, or are not UTF-8, are
// refused too. All of these are errors of class fault.Usage.
//
// The format is that of Microsoft's "FAT: General Overview of On-Disk Format",
// version 1.03, which the UEFI specification refers to.
package fat
