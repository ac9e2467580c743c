package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestReadProcess(t *testing.T) {
	proc := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("7/oom_score_adj", "-1000\n")
	write("7/cgroup", "1:memory:/other\n0::/uid_10123/pid_99\n")
	p, err := readProcess(proc, 7)
	if err != nil || p.PID != 7 || p.OOMScoreAdj != -1000 || p.Cgroup != "/uid_10123/pid_99" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := readProcess(proc, 8); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that is not there: %v", err)
	}
	write("8/oom_score_adj", "much\n")
	if _, err := readProcess(proc, 8); err == nil {
		t.Error("a score that is no number is an error")
	}
	if p, err := readProcess("/proc", os.Getpid()); err != nil || p.PID != os.Getpid() {
		t.Errorf("%+v, %v", p, err)
	}
}
