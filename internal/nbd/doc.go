// Package nbd serves a disk as a network block device, and has one whose write
// cache is lost when the power goes, Disk: the honest test of who asks for a
// flush, and when.
//
// A file and a connection of QEMU's NBD client come in; the file's bytes and,
// at a cut, a file that holds everything that was flushed and an arbitrary part
// of the rest go out. Killing QEMU alone tests less: what it wrote stays in the
// host's page cache and reaches the disk whether the guest flushed it or not.
//
// The protocol is https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md,
// fixed newstyle with simple replies. The package opens no file and no socket,
// and never writes to the image behind the back of Disk's methods.
package nbd
