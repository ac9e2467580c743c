package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is known of the real one's command line and file.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "kernel")
	if err := os.WriteFile(kernel, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		path := filepath.Join(dir, "c.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := fmt.Sprintf(`{"kernel":%q,"platform_version":"~1.0"}`, kernel)
	for _, c := range []struct {
		s    settings
		args []string
		text string
		code int
		want string
	}{
		{settings{}, nil, good, 2, "subcommand"},
		{settings{}, []string{"run"}, good, 2, "<CONFIG>"},
		{settings{}, []string{"run", "--memory", "5", "CONFIG"}, good, 2, "unexpected argument '--memory'"},
		{settings{}, []string{"run", "--name", "a", "--name", "b", "CONFIG"}, good, 2, "multiple times"},
		{settings{}, []string{"run", "--cpu-topology", "two", "CONFIG"}, good, 2, "invalid value 'two' for '--cpu-topology"},
		{settings{OldTopology: true}, []string{"run", "--cpu-topology=cpu_count=2", "CONFIG"}, good, 2, "invalid value 'cpu_count=2'"},
		{settings{}, []string{"run", "CONFIG", "more"}, good, 2, "unexpected argument 'more'"},
		{settings{}, []string{"run", "CONFIG"}, `{"kernel":"x"}`, 1, "platform_version"},
		{settings{}, []string{"run", "CONFIG"}, `{"platform_version":"~1.0"}`, 1, "either a bootloader or a kernel"},
		{settings{}, []string{"run", "CONFIG"}, `{"kernel":"x","platform_version":"~1.0","memory":5}`, 1, "memory"},
		{settings{}, []string{"run", "CONFIG"}, `{"kernel":"x","platform_version":"~1.0","disks":[{"writable":true}]}`, 1, "Exactly one of"},
		{settings{}, []string{"run", "CONFIG"}, `{"kernel":"x","platform_version":"~1.0","disks":[{"image":"a"}]}`, 1, "writable"},
		{settings{Anyone: true}, []string{"run", "CONFIG"}, `{"kernel":"/none","platform_version":"~1.0"}`, 1, "Failed to open"},
		{settings{Anyone: true}, []string{"run", "CONFIG"}, strings.Replace(good, "{", `{"protected":true,`, 1), 1, "PVM_FIRMWARE"},
	} {
		args := append([]string(nil), c.args...)
		for i := range args {
			if args[i] == "CONFIG" {
				args[i] = file(c.text)
			}
		}
		var out, errs bytes.Buffer
		if code := run(c.s, args, &out, &errs); code != c.code || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%q: exit code %d, %q; want %d, %q", c.args, code, errs.String(), c.code, c.want)
		}
	}
	// Who may: adb's shell, and nobody whose kernel lies elsewhere.
	if os.Getuid() == 0 {
		var out, errs bytes.Buffer
		if code := run(settings{}, []string{"run", file(good)}, &out, &errs); code != 1 || !strings.Contains(errs.String(), "memlock") {
			t.Errorf("root: %d, %s", code, errs.String())
		}
	}
	if _, err := (settings{}).given(kernel, false); err == nil || !strings.Contains(err.Error(), "shell_data_file") {
		t.Errorf("a file elsewhere: %v", err)
	}
}
