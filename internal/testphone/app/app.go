// Package app makes a process what an app of Android is, as far as the kernel
// refuses things to it that another user may do: Termux is one, and what runs in it.
//
// The filter of system calls is zygote's (bionic's libc/SECCOMP_*.TXT and
// SYSCALLS.TXT of Android 12 to 16): what bionic itself does not call ends a
// process by SIGSYS, whether the kernel knows it or not. Of it, here are the calls
// that a program of Go could make; those that this computer's own libc makes in the
// programs that are started are left out, for Termux's are others. And SELinux lets
// no app make a hard link (private/app_neverallows.te).
package app

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// killed end the process.
var killed = []uint32{
	unix.SYS_FACCESSAT2, unix.SYS_OPENAT2, unix.SYS_FCHMODAT2, unix.SYS_PIDFD_GETFD,
	unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_CHROOT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT,
	unix.SYS_FSOPEN, unix.SYS_MOUNT_SETATTR, unix.SYS_SETHOSTNAME, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_REBOOT,
}

// refused are denied, as SELinux does.
var refused = append([]uint32{unix.SYS_LINKAT}, oldLinks...)

// Exec makes this process one, and a program of it.
func Exec(path string, args []string) error {
	runtime.LockOSThread()
	if err := confine(); err != nil {
		return err
	}
	return syscall.Exec(path, args, os.Environ())
}

// confine installs the filter for this thread, and what it becomes.
func confine() error {
	code := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // seccomp_data.nr
	answer := func(calls []uint32, with uint32) {
		for _, call := range calls {
			code = append(code,
				unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
				unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: with})
		}
	}
	answer(killed, unix.SECCOMP_RET_TRAP)
	answer(refused, unix.SECCOMP_RET_ERRNO|uint32(unix.EACCES))
	code = append(code, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new rights: %w", err)
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("the filter of system calls: %w", err)
	}
	return nil
}
