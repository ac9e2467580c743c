package box

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// unsafePid is where a siginfo of SIGCHLD has the process: behind three ints
// and, on 64 bits, padding.
func unsafePid(info *unix.Siginfo) unsafe.Pointer {
	return unsafe.Add(unsafe.Pointer(info), 16)
}
