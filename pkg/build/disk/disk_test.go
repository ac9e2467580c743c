package disk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func guid(t testing.TB, s string) GUID {
	t.Helper()
	g, err := ParseGUID(s)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// sample has a root of three MiB and a bit, most of it a hole.
func sample(t testing.TB) (Disk, []byte, []byte) {
	root := make([]byte, 3<<20+4096)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range root[:100_000] {
		root[i] = byte(r.Uint32())
	}
	root[len(root)-1] = 1
	hash := bytes.Repeat([]byte("hash"), 5000)
	rootType, verityType, err := RootTypes("amd64")
	if err != nil {
		t.Fatal(err)
	}
	return Disk{
		GUID: guid(t, "11111111-2222-4333-8444-555555555555"),
		Partitions: []Partition{
			{Label: "root", Type: rootType, GUID: guid(t, "00010203-0405-0607-0809-0a0b0c0d0e0f"), Content: bytes.NewReader(root), Size: int64(len(root))},
			{Label: "root-verity", Type: verityType, GUID: guid(t, "f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff"), Content: bytes.NewReader(hash), Size: int64(len(hash))},
		},
	}, root, hash
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	d, root, hash := sample(t)
	layout, err := Write(context.Background(), path, d)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{root, hash} {
		if l := layout[i]; l.Start%Alignment != 0 || !bytes.Equal(data[l.Start:l.Start+int64(len(want))], want) {
			t.Errorf("partition %d at %+v has other contents", i+1, l)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes on disk of %d: not sparse, %v", st.Blocks*512, st.Size, err)
	}
	again := filepath.Join(t.TempDir(), "again.img")
	d, _, _ = sample(t)
	if _, err := Write(context.Background(), again, d); err != nil {
		t.Fatal(err)
	}
	if other, _ := os.ReadFile(again); !bytes.Equal(data, other) {
		t.Error("two writes of one disk differ")
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSgdiskAccepts(t *testing.T) {
	sgdisk, err := exec.LookPath("sgdisk")
	if err != nil {
		t.Skip("sgdisk is not installed (Debian: gdisk)")
	}
	path := filepath.Join(t.TempDir(), "disk.img")
	d, _, _ := sample(t)
	if _, err := Write(context.Background(), path, d); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(sgdisk, "-v", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk -v: %v\n%s", err, out)
	}
	for i, want := range [][]string{
		{"00010203-0405-0607-0809-0A0B0C0D0E0F", strings.ToUpper(RootAMD64), "'root'"},
		{"F0F1F2F3-F4F5-F6F7-F8F9-FAFBFCFDFEFF", strings.ToUpper(RootAMD64Verity), "'root-verity'"},
	} {
		out, err := exec.Command(sgdisk, "-i", string(rune('1'+i)), path).CombinedOutput()
		for _, w := range want {
			if err != nil || !strings.Contains(string(out), w) {
				t.Errorf("sgdisk -i %d: %v, want %s\n%s", i+1, err, w, out)
			}
		}
	}
	out, err = exec.Command(sgdisk, "-p", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "11111111-2222-4333-8444-555555555555") {
		t.Errorf("sgdisk -p: %v\n%s", err, out)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.img")
	for name, change := range map[string]func(*Disk){
		"no disk GUID":  func(d *Disk) { d.GUID = GUID{} },
		"no type":       func(d *Disk) { d.Partitions[0].Type = GUID{} },
		"same GUID":     func(d *Disk) { d.Partitions[1].GUID = d.Partitions[0].GUID },
		"long label":    func(d *Disk) { d.Partitions[0].Label = strings.Repeat("x", 37) },
		"empty":         func(d *Disk) { d.Partitions[0].Size = 0 },
		"short content": func(d *Disk) { d.Partitions[0].Size += 1000 },
		"read error":    func(d *Disk) { d.Partitions[0].Content = io.MultiReader(strings.NewReader("x"), broken{}) },
	} {
		d, _, _ := sample(t)
		change(&d)
		if _, err := Write(context.Background(), path, d); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	d, _, _ := sample(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Write(ctx, path, d); fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("cancelled: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, _, err := RootTypes("riscv64"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("riscv64: %v", err)
	}
	for _, bad := range []string{"", "4f68bce3e8cd4db196e7fbcaf984b709", "4f68bce3-e8cd-4db1-96e7-fbcaf984b70x", "4f68bce3-e8cd-4db1-96e7f-bcaf984b709"} {
		if _, err := ParseGUID(bad); err == nil {
			t.Errorf("%q is a GUID", bad)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }
