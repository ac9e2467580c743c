package clock

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// rtc is the machine's real-time clock: QEMU and crosvm keep it at the
	// host's time, also while the machine is paused.
	rtc = "/dev/rtc0"
	// ptpClass has a directory for each precise clock; the one with the name
	// kvmClock is the host's own time, of a machine under KVM.
	ptpClass = "/sys/class/ptp"
	kvmClock = "KVM virtual PTP"
)

// machineTime reads the machine's own clock.
func machineTime() (time.Time, error) {
	names, err := filepath.Glob(ptpClass + "/*/clock_name")
	if err != nil {
		return time.Time{}, err
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err == nil && strings.TrimSpace(string(b)) == kvmClock {
			return readPTP("/dev/" + filepath.Base(filepath.Dir(name)))
		}
	}
	return readRTC(rtc)
}

// readPTP reads a clock by its file, as clock_gettime(2) has it under "dynamic
// clocks".
func readPTP(device string) (time.Time, error) {
	f, err := os.Open(device)
	if err != nil {
		return time.Time{}, fmt.Errorf("clock: %w", err)
	}
	defer f.Close()
	const clockFD = 3 // CLOCKFD of the kernel's <linux/posix-timers.h>
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^f.Fd()<<3|clockFD), &ts); err != nil {
		return time.Time{}, fmt.Errorf("clock %s: %w", device, err)
	}
	return time.Unix(ts.Unix()), nil
}

// readRTC reads a clock that tells whole seconds: half a second more is the
// least wrong, as the kernel has it that sets its own clock by it at the boot.
func readRTC(device string) (time.Time, error) {
	f, err := os.Open(device)
	if err != nil {
		return time.Time{}, fmt.Errorf("clock: %w", err)
	}
	defer f.Close()
	t, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		return time.Time{}, fmt.Errorf("clock %s: %w", device, err)
	}
	return rtcTime(t), nil
}

// rtcTime is what a struct rtc_time means, which counts months from 0 and
// years from 1900.
func rtcTime(t *unix.RTCTime) time.Time {
	return time.Date(int(t.Year)+1900, time.Month(t.Mon+1), int(t.Mday), int(t.Hour), int(t.Min), int(t.Sec), int(500*time.Millisecond), time.UTC)
}
