package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCharges(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, want bool) {
		t.Helper()
		if got, err := charges(dir); got != want || err != nil {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	want("no battery", true)
	put("AC/type", "Mains\n")
	put("mouse/type", "Battery\n")
	put("mouse/scope", "Device\n")
	put("mouse/status", "Discharging\n")
	want("a mouse's", true)
	put("BAT0/type", "Battery\n")
	put("BAT0/status", "Charging\n")
	want("charging", true)
	put("BAT0/status", "Discharging\n")
	want("discharging", false)
	if err := os.Remove(filepath.Join(dir, "BAT0", "status")); err != nil {
		t.Fatal(err)
	}
	if got, err := charges(dir); got || err == nil {
		t.Errorf("unknown: %v, %v", got, err)
	}
	if got, err := charges(filepath.Join(dir, "none")); !got || err != nil {
		t.Errorf("no such kernel: %v, %v", got, err)
	}
}
