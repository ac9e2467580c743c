package composite

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/internal/nbd"
)

// A disk that is made is read back, and QEMU's own tools see its partitions'
// content where the table says it is, write to it, and nowhere else.
func TestDisk(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("sovereign"), 1<<20/9+1)[:1<<20]
	path := filepath.Join(dir, "data")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	d, header, footer, err := Make([]Partition{{"data", path, true, 1 << 20}}, "h", "f")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Read(bytes.NewReader(d.Marshal())); err != nil || !reflect.DeepEqual(again, d) {
		t.Errorf("%+v, %v; want %+v", again, err, d)
	}
	if _, _, _, err := Make([]Partition{{"odd", path, true, 4097}}, "h", "f"); err == nil {
		t.Error("an odd size")
	}
	image := &Image{Length: d.Length}
	for n, c := range d.Components {
		name := path
		if n != 1 {
			name = filepath.Join(dir, c.Path)
			if err := os.WriteFile(name, map[string][]byte{"h": header, "f": footer}[c.Path], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		image.Files = append(image.Files, File{f, c.Offset, uint64(info.Size()), c.Writable})
	}
	qemuIO, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skip("no qemu-io")
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if err := nbd.ServeConn(conn, image); err != nil {
					t.Error(err)
				}
			}()
		}
	}()
	out, err := exec.Command(qemuIO, "-f", "raw", "-c", "read -v 20480 9", "-c", "write -P 0x41 24576 4096", "-c", "flush", "nbd+unix:///?socket="+socket).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "sovereign") || strings.Contains(string(out), "failed") {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got[4096:8192], bytes.Repeat([]byte("A"), 4096)) || !bytes.Equal(got[:4096], data[:4096]) {
		t.Errorf("not written where it belongs: %v", err)
	}
	if out, _ := exec.Command(qemuIO, "-f", "raw", "-c", "write 0 512", "nbd+unix:///?socket="+socket).CombinedOutput(); !strings.Contains(string(out), "failed") {
		t.Errorf("the table was written to: %s", out)
	}
	if sfdisk, err := exec.LookPath("sfdisk"); err == nil {
		whole := make([]byte, d.Length)
		if _, err := image.ReadAt(whole, 0); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "whole")
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(sfdisk, "--dump", file).CombinedOutput()
		if err != nil || !strings.Contains(string(out), `start=          40, size=        2048`) || !strings.Contains(string(out), `name="data"`) {
			t.Errorf("%v: %s", err, out)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(Disk{Components: []Component{{"/proc/self/fd/3", 4096, true}}, Length: 8192}.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again, err := Read(bytes.NewReader(d.Marshal())); err != nil || again.Length != d.Length || len(again.Components) != len(d.Components) {
			t.Errorf("%+v, then %+v, %v", d, again, err)
		}
	})
}
