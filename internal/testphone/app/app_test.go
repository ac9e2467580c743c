package app

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sovereign-build/sovereign/internal/process"
)

const stepEnv = "SOVEREIGN_TEST_APP"

// steps are run as an app, with a directory of their own.
var steps = map[string]func(dir string) error{
	"LookPath": func(string) error {
		path, err := process.LookPath("sh")
		if err == nil && !filepath.IsAbs(path) {
			err = fmt.Errorf("it is %q", path)
		}
		return err
	},
	"exec.LookPath": func(string) error { _, err := exec.LookPath("sh"); return err },
	"a child":       func(string) error { return exec.Command("/bin/sh", "-c", "exit 0").Run() },
	"link": func(dir string) error {
		path := filepath.Join(dir, "a")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		if err := os.Link(path, path+"b"); !os.IsPermission(err) {
			return fmt.Errorf("a hard link: %w", err)
		}
		return nil
	},
}

func TestMain(m *testing.M) {
	switch step := os.Getenv(stepEnv); {
	case step == "":
		os.Exit(m.Run())
	case len(os.Args) == 2:
		fmt.Println(Exec("/proc/self/exe", append(os.Args, "confined")))
		os.Exit(3)
	default:
		if err := steps[step](os.Args[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// An app can do what Sovereign does on a device, and ends where it does what Go
// does by itself.
func TestApp(t *testing.T) {
	for step := range steps {
		t.Run(step, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", t.TempDir())
			cmd.Env = append(os.Environ(), stepEnv+"="+step)
			out, err := cmd.CombinedOutput()
			ends := strings.Contains(string(out), "SIGSYS") || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGSYS
			if wants := step == "exec.LookPath"; ends != wants || !wants && err != nil {
				t.Errorf("%v\n%s", err, out[:min(len(out), 2000)])
			}
		})
	}
}
