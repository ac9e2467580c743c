package verity

import (
	"bytes"
	"context"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func image(t testing.TB, blocks int) string {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(blocks)))
	b := make([]byte, blocks*BlockSize)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

var uuid = [16]byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0x4d, 0xef, 0x81, 1, 2, 3, 4, 5, 6, 7}

func TestFormatAgreesWithVeritysetup(t *testing.T) {
	setup, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("veritysetup is not installed (Debian: cryptsetup-bin)")
	}
	salt := bytes.Repeat([]byte{0xa5, 1}, 16)
	for _, blocks := range []int{1, 2, 127, 128, 129, 3000, 128*128 + 1} {
		data := image(t, blocks)
		ours, theirs := filepath.Join(t.TempDir(), "ours"), filepath.Join(t.TempDir(), "theirs")
		info, err := Format(context.Background(), data, ours, Options{Salt: salt, UUID: uuid})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(setup, "verify", data, ours, info.Root.String()).CombinedOutput(); err != nil {
			t.Errorf("%d blocks: veritysetup verify: %v\n%s", blocks, err, out)
		}
		out, err := exec.Command(setup, "format", "--uuid", "12345678-9abc-4def-8101-020304050607", "--salt", hex.EncodeToString(salt), data, theirs).CombinedOutput()
		if err != nil || !strings.Contains(string(out), info.Root.String()) {
			t.Errorf("%d blocks: veritysetup format: %v, want root %s\n%s", blocks, err, info.Root, out)
		}
		a, _ := os.ReadFile(ours)
		b, _ := os.ReadFile(theirs)
		if !bytes.Equal(a, b) || int64(len(a)) != info.Size {
			t.Errorf("%d blocks: %d bytes and veritysetup's %d differ, size %d", blocks, len(a), len(b), info.Size)
		}
		if err := Verify(data, ours, info.Root); err != nil {
			t.Error(err)
		}
	}
}

func TestVerifyFindsChanges(t *testing.T) {
	data, hash := image(t, 300), filepath.Join(t.TempDir(), "hash")
	info, err := Format(context.Background(), data, hash, Options{Salt: []byte("s"), UUID: uuid})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{data, hash} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		at := int64(BlockSize + 20)
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		f.WriteAt(b[:], at)
		if err := Verify(data, hash, info.Root); err == nil {
			t.Errorf("a changed byte in %s was not found", filepath.Base(path))
		}
		b[0] ^= 1
		f.WriteAt(b[:], at)
		f.Close()
	}
	if err := Verify(data, hash, RootHash{1}); err == nil {
		t.Error("another root hash was accepted")
	}
}

func TestFormatRefuses(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	odd := filepath.Join(t.TempDir(), "odd")
	if err := os.WriteFile(odd, make([]byte, 100), 0o644); err != nil {
		t.Fatal(err)
	}
	good := image(t, 1)
	dir := t.TempDir()
	for name, try := range map[string]func() (Info, error){
		"odd size": func() (Info, error) { return Format(ctx, odd, filepath.Join(dir, "h"), Options{Salt: []byte("s")}) },
		"no salt":  func() (Info, error) { return Format(ctx, good, filepath.Join(dir, "h"), Options{}) },
		"no image": func() (Info, error) {
			return Format(ctx, "/nonexistent", filepath.Join(dir, "h"), Options{Salt: []byte("s")})
		},
	} {
		if _, err := try(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	cancel()
	if _, err := Format(ctx, good, filepath.Join(dir, "h"), Options{Salt: []byte("s")}); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRootHash(t *testing.T) {
	h, err := ParseRootHash(strings.Repeat("01", 16) + strings.Repeat("fe", 16))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := h.PartitionGUIDs(); a[0] != 1 || b[15] != 0xfe {
		t.Errorf("%x %x", a, b)
	}
	for _, bad := range []string{"", "00", strings.Repeat("g", 64), strings.Repeat("0", 66)} {
		if _, err := ParseRootHash(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
