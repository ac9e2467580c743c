package android

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A runner runs one of Android's programs and returns what it prints. Its error
// has what it said.
type runner func(ctx context.Context, name string, args ...string) (string, error)

// commandLimit bounds one: the framework answers within a second, or hangs.
const commandLimit = 20 * time.Second

// command runs a program. It is started through sh, which gives up what keeps
// this program from the out-of-memory killer before there is anything to lose.
func command(ctx context.Context, name string, args ...string) (string, error) {
	limit, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	words := append([]string{"-c", `echo 0 >/proc/$$/oom_score_adj 2>/dev/null; exec "$@"`, "sh", name}, args...)
	cmd := exec.CommandContext(limit, "/system/bin/sh", words...)
	cmd.Env = []string{"PATH=/system/bin:/system/xbin:/vendor/bin", "ANDROID_ROOT=/system", "ANDROID_DATA=/data"}
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		said := printable.Line(strings.TrimSpace(errs.String() + out.String()))
		return "", fault.Errorf(fault.Environment, "%s: %w: %.200s", strings.Join(append([]string{name}, args...), " "), err, said)
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

func (run runner) property(ctx context.Context, name string) (string, error) {
	return run(ctx, "getprop", name)
}

// sdk is the phone's API level: 36 for Android 16.
func (run runner) sdk(ctx context.Context) (int, error) {
	text, err := run.property(ctx, "ro.build.version.sdk")
	if err != nil {
		return 0, err
	}
	var n int
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil {
		return 0, fault.Errorf(fault.Environment, "ro.build.version.sdk is %.20q", text)
	}
	return n, nil
}
