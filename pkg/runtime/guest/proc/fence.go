package proc

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// CapabilitySet is a set of the kernel's capabilities, by number.
type CapabilitySet uint64

// AllCapabilities are those that root has by itself.
const AllCapabilities = ^CapabilitySet(0)

// maxCapabilities is how many numbers a set has room for, as the kernel's own.
const maxCapabilities = 64

// Has says whether the capability is in the set.
func (s CapabilitySet) Has(number uint) bool { return s>>number&1 != 0 }

// With is the set with one more capability.
func (s CapabilitySet) With(number uint) CapabilitySet { return s | 1<<number }

// ambient are the capabilities that the process has to be handed. Root gets
// those of its bounding set when it executes a program, others get none.
func (a Attr) ambient() (numbers []uintptr) {
	if a.Credential == nil || a.Credential.Uid == 0 {
		return nil
	}
	for n := range uint(maxCapabilities) {
		if a.Capabilities.Has(n) {
			numbers = append(numbers, uintptr(n))
		}
	}
	return numbers
}

// onOwnThread runs f on a thread that ends with it, so that what f does to the
// thread is inherited by f's children and by nothing else: Go clones no thread
// from one that a goroutine has locked.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The program's first thread stands for the program, and cannot
			// end before it. While it is held here, another one is found.
			onOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// fence takes from the calling thread, and so from its children and all that
// they execute, every capability beyond keep and every way to gain privileges.
// Nothing undoes that.
func (t *Table) fence(keep CapabilitySet) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if !t.bound {
		return nil
	}
	for n := range uint(maxCapabilities) {
		if keep.Has(n) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel knows none of that number, nor above
		}
		if err != nil {
			return fmt.Errorf("capability %d: take away: %w", n, err)
		}
	}
	return nil
}

// mayBound says whether this process may take capabilities away. PID 1 may;
// where a test runs as somebody who may not, there are none to take.
func mayBound() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false, fmt.Errorf("capabilities: %w", err)
	}
	return sets[0].Effective>>unix.CAP_SETPCAP&1 != 0, nil
}
