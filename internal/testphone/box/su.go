package box

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
)

// su has a dialect of its own for each way to root. It is a setuid program,
// while Magisk's asks a daemon; what it starts is in the same place: Magisk and
// KernelSU move it to the root cgroup, a userdebug build does not.
func su(args []string, stdout, stderr io.Writer) int {
	c, err := readConfig()
	if err != nil {
		return failed(stderr, "su", err)
	}
	var argv []string
	switch c.Su {
	case "magisk", "kernelsu":
		argv, err = suC(args)
	case "userdebug":
		argv, err = su0(args)
	case "denied":
		fmt.Fprintln(stderr, "Permission denied")
		return 13
	default:
		err = errors.New("inaccessible or not found")
	}
	if err != nil {
		return failed(stderr, "su", err)
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(0), syscall.Setuid(0)); err != nil {
		return failed(stderr, "su", err)
	}
	if c.Su != "userdebug" {
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return failed(stderr, "su", err)
		}
	}
	path := argv[0]
	if path[0] != '/' {
		path = "/system/bin/" + path
	}
	return failed(stderr, "su", syscall.Exec(path, argv, os.Environ()))
}

// suC is su [USER] [-c COMMAND]: all words behind -c are the command.
func suC(args []string) ([]string, error) {
	if len(args) > 0 && (args[0] == "0" || args[0] == "root") {
		args = args[1:]
	}
	switch {
	case len(args) == 0:
		return []string{"/system/bin/sh"}, nil
	case args[0] == "-c" && len(args) > 1:
		command := args[1]
		for _, word := range args[2:] {
			command += " " + word
		}
		return []string{"/system/bin/sh", "-c", command}, nil
	}
	return nil, fmt.Errorf("invalid argument %q", args[0])
}

// su0 is that of AOSP (su.cpp): su [WHO [COMMAND...]], which is not a shell's.
func su0(args []string) ([]string, error) {
	switch {
	case len(args) == 0:
		return []string{"/system/bin/sh"}, nil
	case args[0] != "0" && args[0] != "root":
		return nil, fmt.Errorf("invalid uid/gid '%s'", args[0])
	case len(args) == 1:
		return []string{"/system/bin/sh"}, nil
	}
	return args[1:], nil
}

func magisk(args []string, stdout, _ io.Writer) int {
	if len(args) == 1 && args[0] == "-v" {
		fmt.Fprintln(stdout, "28.1:MAGISK:R")
	}
	return 0
}

func ksud(args []string, stdout, _ io.Writer) int {
	fmt.Fprintln(stdout, "ksud 1.0.5")
	return 0
}

// launchADBD becomes adbd, as init starts a service: in a cgroup of its own, as
// its user.
func launchADBD(args []string, _, stderr io.Writer) int {
	c, err := readConfig()
	if err != nil {
		return failed(stderr, "adbd", err)
	}
	uid := shellUID
	if c.Su == "adbd" {
		uid = 0
	}
	group := fmt.Sprintf("/sys/fs/cgroup/uid_%d/pid_%d", uid, os.Getpid())
	if err := os.MkdirAll(group, 0o755); err != nil {
		return failed(stderr, "adbd", err)
	}
	if err := os.WriteFile(group+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return failed(stderr, "adbd", err)
	}
	// Less than 0 takes CAP_SYS_RESOURCE, which not every computer for tests has.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil && !errors.Is(err, os.ErrPermission) {
		return failed(stderr, "adbd", err)
	}
	if uid != 0 {
		if err := errors.Join(syscall.Setgroups([]int{1004, 1007, 1011, 3003}), syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
			return failed(stderr, "adbd", err)
		}
	}
	return failed(stderr, "adbd", syscall.Exec(args[0], args, os.Environ()))
}
