// Package rootfs holds a file system as a value: a Tree of entries with
// paths, modes, owners, extended attributes, links and device nodes, and
// contents that are read when they are needed.
//
// Trees come in from tar streams, directories of the host, packages
// (rootfs/apk), the layers of OCI images (rootfs/oci) and images of EROFS
// (rootfs/erofs), ext4 (rootfs/ext4) and cpio (rootfs/initramfs). They go out as
// all of these, and as FAT (rootfs/fat). A tree carries no times: every writer
// takes the one time it writes, so that the same entries give the same bytes in
// whatever order they were added.
//
// Names are bytes, as Linux has them. What comes from outside is read within
// Limits.
//
// The package never keeps the contents of a file in memory unless the caller
// gave them as bytes, never follows a symbolic link, and never touches a
// network. Of the host's file system it touches what ReadDir and File were given
// and the spool file, nothing else.
package rootfs
