package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// efi is what a disk needs to boot by UEFI: OVMF or AAVMF, and an EFI stub of
// Debian's systemd-boot-efi.
var efi = map[string]struct {
	qemu             []string
	code, vars, stub string
	console          string
}{
	"amd64": {
		[]string{"qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max,la57=off"},
		"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd",
		"/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "ttyS0",
	},
	"arm64": {
		[]string{"qemu-system-aarch64", "-machine", "virt,accel=tcg,acpi=off", "-cpu", "cortex-a76"},
		"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd",
		"/usr/lib/systemd/boot/efi/linuxaa64.efi.stub", "ttyAMA0",
	},
}

// TestDiskByFirmware makes one disk of the bundle and boots it with nothing but
// firmware until PostgreSQL answers: the kernel, the initramfs, the root hash
// and the verified root all come from the disk.
func TestDiskByFirmware(t *testing.T) {
	m := newMachine(t)
	firmware := efi[archOf(t)]
	for _, file := range []string{firmware.code, firmware.stub} {
		if _, err := os.Stat(file); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	image, data, vars := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "data.img"), filepath.Join(dir, "vars.fd")
	m.ok("image", "disk", "--bundle", m.bundle, "--stub", firmware.stub, "--format", "qcow2", "-o", image,
		"--cmdline", "console="+firmware.console+" sovereign.net=eth0,10.0.2.15/24,10.0.2.2")
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(data, 1<<30); err != nil {
		t.Fatal(err)
	}
	blank, err := os.ReadFile(firmware.vars)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vars, blank, 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)

	ctx, cancel := context.WithTimeout(t.Context(), bootDeadline)
	defer cancel()
	var console bytes.Buffer
	cmd := exec.CommandContext(ctx, firmware.qemu[0], append(firmware.qemu[1:],
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "512", "-smp", "2", "-serial", "stdio",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+firmware.code,
		"-drive", "if=pflash,unit=1,format=raw,file="+vars,
		"-drive", "if=none,id=root,format=qcow2,read-only=on,file="+image, "-device", "virtio-blk-pci,drive=root,serial=root,romfile=",
		"-drive", "if=none,id=data,format=raw,file="+data, "-device", "virtio-blk-pci,drive=data,serial=data,romfile=",
		"-netdev", fmt.Sprintf("user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:%d-10.0.2.15:5432", port),
		"-device", "virtio-net-pci,netdev=net0,romfile=",
		"-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0")...)
	cmd.Stdout, cmd.Stderr = &console, &console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	// There is no agent here to ask for the password: that a wrong one is
	// refused is PostgreSQL's answer.
	dsn := fmt.Sprintf("postgres://postgres:wrong@127.0.0.1:%d/postgres?connect_timeout=5", port)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); ; {
		_, err := pgx.Connect(ctx, dsn)
		var answer *pgconn.PgError
		if errors.As(err, &answer) && answer.Code == "28P01" {
			t.Logf("PostgreSQL answers %.1f s after the firmware's start", time.Since(begin).Seconds())
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("the machine ended: %v\n%s", err, tail(console.String(), 8<<10))
		case <-ctx.Done():
			<-ended
			t.Fatalf("PostgreSQL does not answer: %v\n%s", err, tail(console.String(), 8<<10))
		case <-tick.C:
		}
	}
	cancel()
	<-ended
	if !bytes.Contains(console.Bytes(), []byte("sovereign-init")) {
		t.Errorf("sovereign-init said nothing:\n%s", tail(console.String(), 8<<10))
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
