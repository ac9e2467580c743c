package ext4

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// An image in the corpus of FuzzRead is written as its pieces that are not
// zeros (nor the ones that bitmaps end in, which Read does not look at), so that a few hundred bytes are a whole file system: for each a place
// (4 bytes) and a length (2 bytes), and then the piece.
const (
	fuzzImage = 512 << 10
	pieceHead = 6
)

func packImage(image []byte) (packed []byte) {
	const unit = 8
	for at := 0; at < len(image); {
		end := at
		for end < len(image) && end-at < 4096 && !blank(image[end:end+unit]) {
			end += unit
		}
		if end > at {
			packed = binary.LittleEndian.AppendUint32(packed, uint32(at))
			packed = binary.LittleEndian.AppendUint16(packed, uint16(end-at))
			packed = append(packed, image[at:end]...)
		}
		at = max(end, at+unit)
	}
	return packed
}

func blank(b []byte) bool {
	return (b[0] == 0 || b[0] == 0xff) && bytes.Equal(b[1:], b[:len(b)-1])
}

func unpackImage(packed []byte) []byte {
	image := make([]byte, fuzzImage)
	for len(packed) > pieceHead {
		at, n := int(u32(packed, 0)%fuzzImage), int(u16(packed, 4))
		packed = packed[pieceHead:]
		n = min(n, len(packed))
		copy(image[at:], packed[:n])
		packed = packed[n:]
	}
	return image
}

var update = flag.Bool("update", false, "write the corpus of FuzzRead anew")

// TestFuzzCorpus makes the images that FuzzRead starts from by mke2fs, with
// -update, and checks that they are read.
func TestFuzzCorpus(t *testing.T) {
	for _, seed := range []struct {
		name string
		args []string
	}{
		{"ext4-no-checksums", []string{"-t", "ext4", "-O", "^has_journal,^metadata_csum,^resize_inode"}},
		{"ext4-checksums", []string{"-t", "ext4", "-O", "^has_journal,^resize_inode"}},
		{"ext2-first", []string{"-t", "ext2", "-r", "0", "-O", "none"}},
		{"meta-bg", []string{"-t", "ext4", "-O", "^has_journal,meta_bg,^resize_inode,uninit_bg,^metadata_csum"}},
	} {
		path := filepath.Join("testdata/fuzz/FuzzRead", seed.name)
		if *update {
			image := filepath.Join(t.TempDir(), "image")
			args := append([]string{"-q", "-F", "-d", fuzzTree(t), "-b", "1024", "-N", "32", "-m", "0", "-U", "00000000-0000-4000-8000-000000000000"}, seed.args...)
			t.Setenv("E2FSPROGS_FAKE_TIME", "1")
			runTool(t, "mke2fs", append(args, image, fmt.Sprint(fuzzImage>>10))...)
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", packImage(b)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var packed []byte
		if _, err := fmt.Sscanf(strings.TrimPrefix(string(b), "go test fuzz v1\n"), "[]byte(%q)", &packed); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		tree, err := Read(t.Context(), bytes.NewReader(unpackImage(packed)))
		if err != nil {
			t.Errorf("%s: %v", seed.name, err)
		} else if e, ok := tree.Lookup("a/holes"); !ok || e.Size != 40005 {
			t.Errorf("%s: a/holes is %+v", seed.name, e)
		}
	}
}

// fuzzTree is a directory with a little of everything.
func fuzzTree(t *testing.T) string {
	dir := t.TempDir()
	path := filepath.Join(t.TempDir(), "image.tar")
	holes := make([]byte, 40005)
	for i := 0; i < len(holes); i += 8000 {
		holes[i] = 'x'
	}
	tree := treeOf(t,
		rootfs.Entry{Path: "a/file", Mode: os.ModeSetuid | 0o755, Size: 3, Content: rootfs.Bytes([]byte("abc")), Xattrs: map[string][]byte{"user.a": []byte("b")}},
		rootfs.Regular("a/holes", 0o644, holes),
		rootfs.Hardlink("b", "a/file"),
		rootfs.Symlink("c", "a"),
		rootfs.Symlink("d", strings.Repeat("far/", 20)),
		rootfs.Entry{Path: "e", Mode: os.ModeDevice | 0o600, Major: 259, Minor: 300},
	)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := rootfs.WriteTar(f, tree, epoch); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	runTool(t, "tar", "--xattrs", "--sparse", "-xpf", path, "-C", dir)
	return dir
}

// FuzzRead checks that damage is an error: no panic, no endless work, no more
// memory than there is.
func FuzzRead(f *testing.F) {
	f.Fuzz(func(t *testing.T, packed []byte) {
		tree, err := Read(t.Context(), bytes.NewReader(unpackImage(packed)))
		if err != nil {
			return
		}
		left := int64(4 << 20)
		for e := range tree.All() {
			if left -= e.Size; !e.IsRegular() || left < 0 {
				continue
			}
			if err := e.CopyTo(io.Discard); err != nil && !strings.Contains(err.Error(), "EOF") {
				t.Error(err)
			}
		}
	})
}
