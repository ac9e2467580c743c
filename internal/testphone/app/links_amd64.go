package app

import "golang.org/x/sys/unix"

// oldLinks is a call that later architectures do not have.
var oldLinks = []uint32{unix.SYS_LINK}
