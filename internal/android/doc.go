// Package android is what a program has to do on a phone to stay there and to be
// a good guest: it leaves the cgroup of whoever has started it, keeps itself and
// the hypervisors from the out-of-memory killer, waits until the phone is ready,
// holds a wake lock while it is needed, notices that the phone shuts down, and
// looks at battery and heat.
//
// What it finds out is a Status; what it decides is whether machines may run now
// (Keeper). It knows nothing of machines but their process numbers, and changes
// nothing on a phone that Undo does not put back.
//
// # Where this comes from
//
// init starts each service in a cgroup of its own and kills all that is in it
// when the service ends: adbd's when the USB function changes
// (system/core/init/service.cpp, rootdir/init.usb.rc). A session of one's own,
// nohup and a double fork leave no cgroup. Properties are laid out as in
// bionic's libc/system_properties; the wake lock is the kernel's
// (Documentation/ABI/testing/sysfs-power); phantom processes are those of
// PhantomProcessList.java in frameworks/base.
package android

import "path/filepath"

// Dir is where sovereignd is on a phone, and StateDir where its machines are.
const (
	Dir      = "/data/adb/sovereign"
	StateDir = Dir + "/state"
)

// ShellDir is where it is on a phone without root: what adb's shell may write to,
// and machines of Android's own service may read. ShellStateDir is where its
// machines are.
const (
	ShellDir      = "/data/local/tmp/sovereign"
	ShellStateDir = ShellDir + "/state"
)

// root is "/", and another directory in tests.
type root string

func (r root) path(name string) string { return filepath.Join(string(r), name) }
