package spec

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestCapability(t *testing.T) {
	for name, want := range map[string]uint{"CHOWN": unix.CAP_CHOWN, "NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW,
		"SYS_ADMIN": unix.CAP_SYS_ADMIN, "SETFCAP": unix.CAP_SETFCAP, "CHECKPOINT_RESTORE": unix.CAP_LAST_CAP} {
		if n, ok := Capability(name); !ok || n != want {
			t.Errorf("%s: got %d, %v: want %d", name, n, ok, want)
		}
	}
	for _, name := range []string{"", "net_admin", "CAP_NET_ADMIN", "ALL"} {
		if _, ok := Capability(name); ok {
			t.Errorf("%q was found", name)
		}
	}
	if n := len(Capabilities()); n != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names, the kernel has %d", n, unix.CAP_LAST_CAP+1)
	}
}

func TestIsDevice(t *testing.T) {
	for path, want := range map[string]bool{"/dev/net/tun": true, "/dev/rtc0": true, "/dev": false, "/dev/": false, "/dev/../data/x": false,
		"/dev/shm/x": false, "/dev/pts/0": false, "/data/x": false, "dev/x": false, "": false} {
		if got := IsDevice(path); got != want {
			t.Errorf("%q: got %v", path, got)
		}
	}
}
