// Package rootfs holds a file system as a value: a Tree of entries with
// paths, modes, owners, extended attributes, links and device nodes, and
// contents that are read when they are needed.
//
// Trees come in from tar streams and packages (rootfs/apk) and go out as
// tar, EROFS (rootfs/erofs) and cpio (rootfs/initramfs). A tree carries no
// times: every writer takes the one time it writes, so that the same entries
// give the same bytes in whatever order they were added.
//
// The package never keeps the contents of a file in memory unless the caller
// gave them as bytes, never follows a symbolic link, and never touches a
// network or the host's file system beyond the spool file it was told to use.
package rootfs
