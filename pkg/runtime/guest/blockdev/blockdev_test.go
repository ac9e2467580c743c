package blockdev

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestFind(t *testing.T) {
	sys := t.TempDir()
	write(t, sys+"/block/vda/serial", "data")
	write(t, sys+"/block/vdb/serial", "root\n")
	write(t, sys+"/block/vdb/vdb1/uevent", "MAJOR=254\nDEVNAME=vdb1\nPARTN=1\nPARTNAME=root\n")
	write(t, sys+"/block/vdb/vdb2/uevent", "DEVNAME=vdb2\nPARTNAME=root-verity\n")
	write(t, sys+"/block/loop0/size", "0")
	d, err := Find(t.Context(), sys, "root")
	if err != nil || d.Device() != "/dev/vdb" {
		t.Fatalf("got %v, %v", d, err)
	}
	for label, want := range map[string]string{"root": "/dev/vdb1", "root-verity": "/dev/vdb2"} {
		if p, err := d.Partition(t.Context(), label); err != nil || p != want {
			t.Errorf("%s: got %q, %v", label, p, err)
		}
	}
	if _, err := d.Partition(short(t), "esp"); err == nil || !strings.Contains(err.Error(), `no partition labelled "esp"`) {
		t.Errorf("absent partition: got %v", err)
	}
	if _, err := Find(short(t), sys, "nope"); err == nil || !strings.Contains(err.Error(), `vda "data"`) {
		t.Errorf("absent disk: got %v", err)
	}
	write(t, sys+"/block/vdc/serial", "root")
	if _, err := Find(t.Context(), sys, "root"); err == nil || !strings.Contains(err.Error(), "there are 2") {
		t.Errorf("two disks: got %v", err)
	}
}

// Android's own service gives no disk a serial: the root is found by its own
// partitions, another by the one that its host has put around it.
func TestFindByLabel(t *testing.T) {
	sys := t.TempDir()
	write(t, sys+"/block/vda/serial", "")
	write(t, sys+"/block/vda/vda1/uevent", "DEVNAME=vda1\nPARTNAME=data\n")
	write(t, sys+"/block/vdb/vdb1/uevent", "DEVNAME=vdb1\nPARTNAME=root\n")
	write(t, sys+"/block/vdb/vdb2/uevent", "DEVNAME=vdb2\nPARTNAME=root-verity\n")
	data, err := Find(t.Context(), sys, "data")
	if err != nil || data.Device() != "/dev/vda1" || data.Queue() != sys+"/block/vda/queue" {
		t.Errorf("data: %v, %v", data, err)
	}
	root, err := Find(t.Context(), sys, "root")
	if err != nil {
		t.Fatal(err)
	}
	for label, want := range map[string]string{"root": "/dev/vdb1", "root-verity": "/dev/vdb2"} {
		if p, err := root.Partition(t.Context(), label); err != nil || p != want {
			t.Errorf("%s: got %q, %v", label, p, err)
		}
	}
	// A disk with that serial goes before a label, which anybody who writes to a
	// disk can give.
	write(t, sys+"/block/vdc/serial", "data")
	if d, err := Find(t.Context(), sys, "data"); err != nil || d.Device() != "/dev/vdc" {
		t.Errorf("data by serial: %v, %v", d, err)
	}
	write(t, sys+"/block/vdd/vdd1/uevent", "DEVNAME=vdd1\nPARTNAME=root\n")
	if _, err := Find(t.Context(), sys, "root"); err == nil || !strings.Contains(err.Error(), "there are 2") {
		t.Errorf("two labels: got %v", err)
	}
}

func TestFindWaits(t *testing.T) {
	sys := t.TempDir()
	found := make(chan Disk, 1)
	go func() {
		d, _ := Find(t.Context(), sys, "late")
		found <- d
	}()
	write(t, sys+"/tmp/serial", "late")
	if err := os.MkdirAll(sys+"/block", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(sys+"/tmp", sys+"/block/vdz"); err != nil {
		t.Fatal(err)
	}
	if d := <-found; d.Name != "vdz" {
		t.Errorf("got %v", d)
	}
}
