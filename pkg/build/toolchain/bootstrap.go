package toolchain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// bootstrap runs mmdebstrap on the repository and gives its tar stream to read.
func bootstrap(ctx context.Context, r *repository, l lock.Toolchain, arch string, epoch int64, work, logPath string, read func(io.Reader) error) (err error) {
	tool, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return fault.Errorf(fault.Environment, "the toolchain image is made by mmdebstrap, which is not installed").
			Hintf("install it with apt-get install mmdebstrap uidmap")
	}
	log, err := os.OpenFile(logPath, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fault.Errorf(fault.Environment, "toolchain: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	cmd := exec.CommandContext(ctx, tool, arguments(r, l, arch)...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + work,
		"LC_ALL=C.UTF-8",
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(epoch, 10),
	}
	if os.Getuid() == 0 {
		// Where our own cleaning finds it after a crash.
		cmd.Env = append(cmd.Env, "TMPDIR="+work)
	}
	cmd.Stderr = log
	// mmdebstrap tidies up on INT; its children are stopped with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fault.Errorf(fault.Environment, "%s: %w", tool, err)
	}
	readErr := read(pipe)
	if readErr == nil {
		_, readErr = io.Copy(io.Discard, pipe) // tar's padding
	} else {
		pipe.Close()
	}
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return fault.Errorf(fault.Cancelled, "making the toolchain image was stopped: %w", context.Cause(ctx))
	case waitErr != nil:
		return fault.Errorf(fault.Environment, "mmdebstrap: %w: %s; its whole log is %s", waitErr, complaint(log), logPath).
			Hintf("see the log; as another user than root it needs uidmap and entries in /etc/subuid and /etc/subgid")
	}
	return readErr
}

// arguments of mmdebstrap. Its variant essential begins with the essential
// packages; naming all the others leaves apt no choice.
func arguments(r *repository, l lock.Toolchain, arch string) []string {
	mode := "unshare"
	if os.Getuid() == 0 {
		mode = "root"
	}
	names := make([]string, len(l.Packages))
	for i, p := range l.Packages {
		names[i] = p.Name
	}
	args := []string{
		"--variant=essential", "--mode=" + mode, "--format=tar", "--architectures=" + arch,
		"--include=" + strings.Join(names, ","),
		// The tree is read once and thrown away: syncing every file of it
		// only costs time.
		"--dpkgopt=force-unsafe-io",
		`--aptopt=APT::Sandbox::User "root"`,
	}
	for _, dir := range unneeded() {
		args = append(args, "--dpkgopt=path-exclude=/"+dir+"*")
	}
	return append(args, "", "-", fmt.Sprintf("deb [trusted=yes] copy:%s ./", r.dir))
}

// complaint finds the line of a log that says most: the last error of
// mmdebstrap or apt, else the last line.
func complaint(log *os.File) string {
	const window = 16 << 10
	fi, err := log.Stat()
	if err != nil {
		return "no message"
	}
	text := make([]byte, window)
	n, err := log.ReadAt(text, max(0, fi.Size()-window))
	if err != nil && !errors.Is(err, io.EOF) {
		return "no message"
	}
	last := "no message"
	var apt string
	for line := range bytes.Lines(text[:n]) {
		s := strings.TrimSpace(string(line))
		if s == "" {
			continue
		}
		last = s
		if e, ok := strings.CutPrefix(s, "E: "); ok && !strings.Contains(s, "failed: ") {
			apt = e
		}
	}
	if apt != "" {
		return apt
	}
	return last
}
