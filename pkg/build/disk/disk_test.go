package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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

// sample has a root of three MiB and a bit, most of it a hole, and a partition
// that is all hole.
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
			{Label: "root-verity", Type: verityType, GUID: guid(t, "f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff"), Content: bytes.NewReader(hash), Size: int64(len(hash)), Attributes: ReadOnly},
			{Label: "data", Type: guid(t, LinuxData), GUID: guid(t, "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf"), Attributes: GrowFS | NoAuto, Size: 8 << 20},
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
	// It changes only when what is written does.
	if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != "7ed12ba1bde655d0a8659d1b38388798c84c9950fca31056dded974c40c168fd" {
		t.Errorf("digest %s", got)
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
		{"00010203-0405-0607-0809-0A0B0C0D0E0F", strings.ToUpper(rootAMD64), "'root'"},
		{"F0F1F2F3-F4F5-F6F7-F8F9-FAFBFCFDFEFF", strings.ToUpper(rootAMD64Verity), "'root-verity'", "Attribute flags: 1000000000000000"},
		{"A0A1A2A3-A4A5-A6A7-A8A9-AAABACADAEAF", strings.ToUpper(LinuxData), "'data'", "Attribute flags: 8800000000000000"},
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

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	d, root, hash := sample(t)
	if _, err := Write(context.Background(), path, d); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if got.GUID != d.GUID || len(got.Partitions) != len(d.Partitions) {
		t.Fatalf("got %+v, want %+v", got, d)
	}
	for i, p := range got.Partitions {
		want := d.Partitions[i]
		if p.Label != want.Label || p.Type != want.Type || p.GUID != want.GUID || p.Attributes != want.Attributes || p.Size != (want.Size+511)/512*512 {
			t.Errorf("got %+v, want %+v", p, want)
		}
		contents, err := io.ReadAll(p.Content)
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 && !bytes.HasPrefix(contents, [][]byte{root, hash}[i]) {
			t.Errorf("partition %s has other contents", p.Label)
		}
	}
	// A disk that is read can be written again.
	again := filepath.Join(t.TempDir(), "again.img")
	if got, err = Read(f); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(context.Background(), again, got); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(path)
	if b, _ := os.ReadFile(again); !bytes.Equal(a, b) {
		t.Error("the second disk differs")
	}
	if err := os.WriteFile(again, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	empty, err := os.Open(again)
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	if _, err := Read(empty); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a file of zeros: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), "disk.img")
	d, _, _ := sample(f)
	d.Partitions = d.Partitions[:2]
	if _, err := Write(context.Background(), path, d); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:34*512], data[len(data)-33*512:])
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		const size = 4 << 20
		head = bytes.Clone(head)
		if len(head) >= 2*512 {
			// With right sums, or nothing behind them is ever reached.
			le, h := binary.LittleEndian, head[512:]
			if n := int(le.Uint32(h[80:])) * int(le.Uint32(h[84:])); n >= 0 && n <= len(head)-2*512 {
				le.PutUint32(h[88:], crc32.ChecksumIEEE(head[2*512:2*512+n]))
			}
			clear(h[16:20])
			le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		}
		_, err = file.WriteAt(head[:min(len(head), size)], 0)
		if err == nil {
			_, err = file.WriteAt(tail[:min(len(tail), size)], max(0, size-int64(len(tail))))
		}
		if err == nil {
			err = file.Truncate(size)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := Read(file)
		if err != nil {
			return
		}
		for _, p := range got.Partitions {
			if p.Size < 1 || p.Size > size {
				t.Errorf("a partition of %d bytes", p.Size)
			}
		}
	})
}

func TestDeriveGUIDs(t *testing.T) {
	derive := func(change func(*Disk)) Disk {
		d, _, _ := sample(t)
		d.GUID = GUID{}
		for i := range d.Partitions {
			d.Partitions[i].GUID = GUID{}
		}
		change(&d)
		if err := d.DeriveGUIDs(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := d.plan(); err != nil {
			t.Error(err)
		}
		return d
	}
	a := derive(func(*Disk) {})
	if b := derive(func(*Disk) {}); a.GUID != b.GUID || a.Partitions[0].GUID != b.Partitions[0].GUID {
		t.Error("equal disks have other GUIDs")
	}
	c := derive(func(d *Disk) {
		d.Partitions[0].Content = bytes.NewReader(make([]byte, d.Partitions[0].Size))
		d.Partitions[1].GUID = guid(t, rootAMD64)
	})
	if a.GUID == c.GUID || a.Partitions[0].GUID == c.Partitions[0].GUID || c.Partitions[1].GUID != guid(t, rootAMD64) || a.Partitions[2].GUID != c.Partitions[2].GUID {
		t.Errorf("GUIDs %v and %v", a, c)
	}
	d := Disk{Partitions: []Partition{{Label: "x", Content: io.LimitReader(nil, 1), Size: 1}}}
	if err := d.DeriveGUIDs(context.Background()); err == nil {
		t.Error("a stream has been read twice")
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
	if _, _, err := RootTypes("vax"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("vax: %v", err)
	}
	for _, bad := range []string{"", "4f68bce3e8cd4db196e7fbcaf984b709", "4f68bce3-e8cd-4db1-96e7-fbcaf984b70x", "4f68bce3-e8cd-4db1-96e7f-bcaf984b709"} {
		if _, err := ParseGUID(bad); err == nil {
			t.Errorf("%q is a GUID", bad)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

// Of the Discoverable Partitions Specification.
const (
	rootAMD64       = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	rootAMD64Verity = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
)
