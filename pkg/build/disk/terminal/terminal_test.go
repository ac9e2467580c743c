package terminal

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func file(s string) File { return File{strings.NewReader(s), int64(len(s))} }

func guid(t testing.TB, s string) disk.GUID {
	t.Helper()
	g, err := disk.ParseGUID(s)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func sample(t testing.TB) Image {
	return Image{
		Name: "sql", BuildID: "sha256:0123", Params: "roothash=00 quiet", MemoryMiB: 512, Epoch: 1793491200,
		Kernel: file("kernel"), Initrd: file("initramfs"),
		Partitions: []Partition{
			{File: RootFile, Label: "root", GUID: guid(t, "00010203-0405-0607-0809-0a0b0c0d0e0f"), Contents: file(strings.Repeat("root", 5000))},
			{File: "data_part", Label: "data", GUID: guid(t, "f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff"), Writable: true, Contents: File{Size: 3 << 20}},
		},
	}
}

func write(t testing.TB, i Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(context.Background(), &b, i); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks an archive with tar(1), as a user would.
func unpack(t *testing.T, archive []byte) string {
	t.Helper()
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("tar", "-xzf", "-", "-C", dir)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return dir
}

func TestWrite(t *testing.T) {
	archive := write(t, sample(t))
	dir := unpack(t, archive)
	for name, want := range map[string]string{
		"build_id": "sha256:0123\n", "vmlinuz": "kernel", "initrd.img": "initramfs",
		"root_part": strings.Repeat("root", 5000) + strings.Repeat("\x00", 480),
		"data_part": strings.Repeat("\x00", 3<<20),
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s has %d bytes, want %d; %v", name, len(got), len(want), err)
		}
	}
	const want = `{
		"name": "sql",
		"kernel": "$PAYLOAD_DIR/vmlinuz",
		"initrd": "$PAYLOAD_DIR/initrd.img",
		"params": "roothash=00 quiet",
		"disks": [{"writable": true, "partitions": [
			{"label": "root", "path": "$PAYLOAD_DIR/root_part", "writable": false, "guid": "00010203-0405-0607-0809-0a0b0c0d0e0f"},
			{"label": "data", "path": "$PAYLOAD_DIR/data_part", "writable": true, "guid": "f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff"}
		]}],
		"protected": false,
		"cpu_topology": "match_host",
		"platform_version": "~1.0",
		"memory_mib": 512,
		"debuggable": true,
		"console_out": true,
		"connect_console": true,
		"console_input_device": "ttyS0",
		"network": true,
		"auto_memory_balloon": true
	}`
	compareConfig(t, dir, want)
	if !bytes.Equal(archive, write(t, sample(t))) {
		t.Error("two archives of one image differ")
	}
	// The app's reader stops after one member.
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false)
	if _, err := io.Copy(io.Discard, z); err != nil {
		t.Error(err)
	}
	if z.Name != "" || !z.ModTime.IsZero() {
		t.Errorf("gzip header: %+v", z.Header)
	}
}

func TestEFI(t *testing.T) {
	i := sample(t)
	i.Kernel, i.Initrd, i.Params, i.OneCPU, i.Protected = File{}, File{}, "", true, true
	i.Partitions = []Partition{i.Partitions[0], {File: EFIFile, Label: "EFI", GUID: guid(t, "f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff"), Contents: file(strings.Repeat("\xeb", 4096))}}
	dir := unpack(t, write(t, i))
	compareConfig(t, dir, `{
		"name": "sql",
		"disks": [{"writable": false, "partitions": [
			{"label": "root", "path": "$PAYLOAD_DIR/root_part", "writable": false, "guid": "00010203-0405-0607-0809-0a0b0c0d0e0f"},
			{"label": "EFI", "path": "$PAYLOAD_DIR/efi_part", "writable": false, "guid": "f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff"}
		]}],
		"protected": true, "cpu_topology": "one_cpu", "platform_version": "~1.0", "memory_mib": 512,
		"debuggable": true, "console_out": true, "connect_console": true, "console_input_device": "ttyS0",
		"network": true, "auto_memory_balloon": true
	}`)
	for _, absent := range []string{"vmlinuz", "initrd.img"} {
		if _, err := os.Stat(filepath.Join(dir, absent)); err == nil {
			t.Errorf("%s is there", absent)
		}
	}
}

func compareConfig(t *testing.T, dir, want string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "vm_config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got, wanted any
	if err := errors.Join(json.Unmarshal(data, &got), json.Unmarshal([]byte(want), &wanted)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("vm_config.json (-want +got):\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	for want, change := range map[string]func(*Image){
		"no partition root_part":    func(i *Image) { i.Partitions = i.Partitions[1:] },
		"go together":               func(i *Image) { i.Initrd = File{} },
		"either from a kernel":      func(i *Image) { i.Kernel, i.Initrd = File{}, File{} },
		"or from a partition":       func(i *Image) { i.Partitions[1].File = EFIFile },
		"two files root_part":       func(i *Image) { i.Partitions[1].File = RootFile },
		"two files vmlinuz":         func(i *Image) { i.Partitions[1].File = KernelFile },
		"not a plain name":          func(i *Image) { i.Partitions[1].File = "../x" },
		"label, GUID or contents":   func(i *Image) { i.Partitions[1].GUID = disk.GUID{} },
		"build ID is not one line":  func(i *Image) { i.BuildID = "a\nb" },
		"parameters are one line":   func(i *Image) { i.Params = "a\nb" },
		"memory of 0 MiB":           func(i *Image) { i.MemoryMiB = 0 },
		"end after 20000 of 30000 ": func(i *Image) { i.Partitions[0].Contents.Size = 30000 },
	} {
		i := sample(t)
		change(&i)
		err := Write(context.Background(), io.Discard, i)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if class := fault.ClassOf(err); class != fault.Usage && !strings.Contains(want, "end after") {
			t.Errorf("%v has class %d", err, class)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Write(ctx, io.Discard, sample(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
