package spec

import (
	"path"
	"slices"
	"strings"
)

// Capability returns the kernel's number of a capability by its name without
// CAP_, as <linux/capability.h> has both.
func Capability(name string) (number uint, ok bool) {
	i := slices.Index(capabilities[:], name)
	return uint(i), i >= 0
}

// Capabilities are the names that Capability knows, by number.
func Capabilities() []string { return slices.Clone(capabilities[:]) }

// capabilities by number.
var capabilities = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// IsDevice says whether path can be that of a device file of a service: the
// kernel makes those below /dev, and programs what is in the file systems that
// are mounted there.
func IsDevice(file string) bool {
	rest, ok := strings.CutPrefix(file, "/dev/")
	dir, _, _ := strings.Cut(rest, "/")
	return ok && rest != "" && path.Clean(file) == file && dir != "shm" && dir != "pts"
}
