package testphone

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Server is an adb server of a test's own, started by the real adb.
type Server struct {
	Port int
	Env  []string // for programs that are to use it
}

// StartServer starts one, with its keys in a directory of the caller's. It is
// ended by Close, at its own port.
func StartServer(dir string) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s := &Server{Port: port}
	s.Env = append(os.Environ(), fmt.Sprintf("ANDROID_ADB_SERVER_PORT=%d", port), "HOME="+dir,
		"ADB_LOCAL_TRANSPORT_MAX_PORT=5554") // no emulators of this computer
	if out, err := s.ADB("start-server"); err != nil {
		return nil, fmt.Errorf("adb start-server: %w: %s", err, out)
	}
	return s, nil
}

// ADB runs adb.
func (s *Server) ADB(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "adb", args...)
	cmd.Env = s.Env
	cmd.WaitDelay = time.Second // the server may hold its output
	out, err := cmd.CombinedOutput()
	if err == exec.ErrWaitDelay {
		err = nil
	}
	return string(out), err
}

// Connect connects it to a phone, and waits until it is a device.
func (s *Server) Connect(address string) error {
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, err := s.ADB("connect", address)
		if err == nil {
			if state, _ := s.ADB("-s", address, "get-state"); strings.TrimSpace(state) == "device" {
				return nil
			}
		}
		if time.Now().After(limit) {
			return fmt.Errorf("adb connect %s: %v: %s", address, err, out)
		}
	}
}

// Close ends the server.
func (s *Server) Close() error {
	out, err := s.ADB("kill-server")
	if err != nil {
		return fmt.Errorf("adb kill-server: %w: %s", err, out)
	}
	return nil
}
