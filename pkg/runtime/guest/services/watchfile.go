package services

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watchFile tells on changed when the file at path is made, replaced, or
// written and closed; several changes may be one word. The file's directory
// must exist, the file need not. stop ends it.
func watchFile(path string) (changed <-chan struct{}, stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watch %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	dir, name := filepath.Split(path)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE|unix.IN_ONLYDIR); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("watch %s: %w", path, err)
	}
	told := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// Whole events only: the kernel gives as many as fit.
		b := make([]byte, 16*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
		for {
			n, err := f.Read(b)
			if err != nil {
				return // stopped
			}
			if mentions(b[:n], name) {
				select {
				case told <- struct{}{}:
				default: // there is a word already
				}
			}
		}
	}()
	return told, func() { f.Close(); <-ended }, nil
}

// mentions says whether one of the events is of that name, or says that
// events were lost.
func mentions(events []byte, name string) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(events[4:])
		length := int(binary.NativeEndian.Uint32(events[12:]))
		events = events[unix.SizeofInotifyEvent:]
		if length > len(events) {
			return true
		}
		if mask&unix.IN_Q_OVERFLOW != 0 || string(bytes.TrimRight(events[:length], "\x00")) == name {
			return true
		}
		events = events[length:]
	}
	return false
}
