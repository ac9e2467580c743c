package rootfs

import "io/fs"

// Bits of st_mode, the same on every Linux architecture (inode(7)).
const (
	unixFIFO    = 0o010000
	unixChar    = 0o020000
	unixDir     = 0o040000
	unixBlock   = 0o060000
	unixRegular = 0o100000
	unixSymlink = 0o120000
	unixSocket  = 0o140000
	unixType    = 0o170000
	unixSetuid  = 0o4000
	unixSetgid  = 0o2000
	unixSticky  = 0o1000
)

// UnixMode is m as Linux's st_mode, type bits included.
func UnixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	switch m.Type() {
	case fs.ModeDir:
		u |= unixDir
	case fs.ModeSymlink:
		u |= unixSymlink
	case fs.ModeDevice:
		u |= unixBlock
	case fs.ModeDevice | fs.ModeCharDevice:
		u |= unixChar
	case fs.ModeNamedPipe:
		u |= unixFIFO
	case fs.ModeSocket:
		u |= unixSocket
	default:
		u |= unixRegular
	}
	if m&fs.ModeSetuid != 0 {
		u |= unixSetuid
	}
	if m&fs.ModeSetgid != 0 {
		u |= unixSetgid
	}
	if m&fs.ModeSticky != 0 {
		u |= unixSticky
	}
	return u
}

// ModeFromUnix is the inverse of UnixMode. A type Linux does not have becomes
// fs.ModeIrregular, which no tree accepts.
func ModeFromUnix(u uint32) fs.FileMode {
	m := fs.FileMode(u & 0o777)
	switch u & unixType {
	case unixDir:
		m |= fs.ModeDir
	case unixSymlink:
		m |= fs.ModeSymlink
	case unixBlock:
		m |= fs.ModeDevice
	case unixChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unixFIFO:
		m |= fs.ModeNamedPipe
	case unixSocket:
		m |= fs.ModeSocket
	case unixRegular:
	default:
		m |= fs.ModeIrregular
	}
	if u&unixSetuid != 0 {
		m |= fs.ModeSetuid
	}
	if u&unixSetgid != 0 {
		m |= fs.ModeSetgid
	}
	if u&unixSticky != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// DirentType is the number that directory entries of ext4 and EROFS carry for
// the type of m, Linux's FT_* of include/linux/fs_types.h.
func DirentType(m fs.FileMode) byte {
	switch m.Type() {
	case fs.ModeDir:
		return 2
	case fs.ModeDevice | fs.ModeCharDevice:
		return 3
	case fs.ModeDevice:
		return 4
	case fs.ModeNamedPipe:
		return 5
	case fs.ModeSocket:
		return 6
	case fs.ModeSymlink:
		return 7
	default:
		return 1
	}
}
