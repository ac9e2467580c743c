// The program crosvm of the test phone: a strict stand-in for Android's, which
// takes its command line, refuses what that refuses, with its exit codes, answers
// at its control socket, and boots the very kernel and disks that it is given
// under QEMU. It is for tests alone, and is held by its own to what is known of the
// real one (crosvm's source, src/main.rs, src/crosvm/cmdline.rs, vm_control).
//
// What differs between builds, and where this host has no phone's devices, a file
// beside the program says: crosvm.json, see settings. Guests' vsock is the
// directory's that it names (package vhostvsock).
//
// What it does not do is said where somebody asks for it, with exit code 1: GPU,
// USB, shared directories, snapshots, the stall detector (exit code 36).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// Exit codes (CommandStatus).
const (
	exitStop    = 0
	exitFailed  = 1
	exitReset   = 32
	exitPanic   = 34
	exitBadArgs = 35
)

// settings are what a test says of the phone.
type settings struct {
	// Profile is that of runOptions; "" is a16.
	Profile string `json:"profile"`
	// Arch is the guests': "amd64" or "arm64"; "" is this program's.
	Arch string `json:"arch"`
	// VsockDir is where guests' sockets are.
	VsockDir string `json:"vsock_dir"`
	// MaxCPUs is the most that a guest comes up with: with more it is reset in its
	// first moment, as on some processors; 0: any number.
	MaxCPUs int `json:"max_cpus"`
	// OtherJSON: the control socket understands requests of another version only,
	// as this program's own commands send them, and never answers others.
	OtherJSON bool `json:"other_json"`
}

func readSettings() (s settings, err error) {
	s = settings{Profile: "a16", Arch: runtime.GOARCH}
	self, err := os.Executable()
	if err != nil {
		return s, err
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(self), "crosvm.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

func main() {
	// The thread that starts QEMU has to live as long as the program: QEMU ends
	// with it.
	runtime.LockOSThread()
	s, err := readSettings()
	if err != nil {
		fmt.Fprintln(os.Stderr, "crosvm.json:", err)
		os.Exit(exitFailed)
	}
	os.Exit(run(s, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program, which returns its exit code.
func run(s settings, args []string, stdout, stderr io.Writer) int {
	global, rest, err := parse(expand(args), globalOptions(), true)
	status := exitStop
	if err == nil && len(rest) == 0 {
		err = badf("One of the following subcommands must be present: run, stop, …")
	}
	if err == nil {
		status, err = command(s, rest[0], rest[1:], stdout, stderr)
	}
	var bad *badArguments
	switch {
	case errors.Is(err, errHelp):
		fmt.Fprint(stdout, help(runOptions(s.Profile)))
		return exitStop
	case errors.As(err, &bad):
		fmt.Fprintf(stderr, "arg parsing failed: %v\n\nRun crosvm --help for more information.\n", err)
		return exitBadArgs
	case err != nil:
		fmt.Fprintf(stderr, "[ERROR:crosvm] exiting with error 1: %v\n", err)
		return exitFailed
	case !global.has("extended-status"):
		return exitStop
	}
	return status
}

// command runs one of crosvm's.
func command(s settings, name string, args []string, stdout, stderr io.Writer) (status int, err error) {
	if name == "run" {
		v, rest, err := parse(args, runOptions(s.Profile), false)
		if err != nil {
			return 0, err
		}
		c, err := readValues(s.Profile, v, rest)
		if err != nil {
			return 0, err
		}
		if err := c.contradictions(v); err != nil {
			fmt.Fprintln(stderr, err)
			return 0, err
		}
		return runMachine(s, c, v, stderr)
	}
	if slices.Contains(args, "--help") {
		return 0, errHelp
	}
	if name == "version" {
		_, err := fmt.Fprintln(stdout, "crosvm 0.1.0-testphone")
		return 0, err
	}
	return 0, controlCommand(s, name, args, stdout)
}
