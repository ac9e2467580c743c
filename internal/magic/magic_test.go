package magic

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
)

// The first name of a tar archive may be any bytes, marks of other formats
// among them.
func TestTarFirst(t *testing.T) {
	for _, name := range []string{"f", "\x1f\x8b", "PK\x03\x04", "BZh91AY&SY", "\xfd7zXZ", "\x28\xb5\x2f\xfd", "070701", "ümlaut"} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		// In GNU's format the name stands in the header as it is.
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Format: tar.FormatGNU}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if f := Of(b.Bytes()); f.Kind != Tar {
			t.Errorf("%q: %+v", name, f)
		}
		if f := Of(b.Bytes()[:511]); f.Kind == Tar {
			t.Errorf("%q, cut: %+v", name, f)
		}
	}
}

func TestOf(t *testing.T) {
	at := func(n int, s string) string { return strings.Repeat("\x00", n) + s }
	for head, want := range map[string]string{
		"": "", "hello": "", at(8192, ""): "", strings.Repeat("x", 70000): "",
		"\x1f\x8b": "a gzip file", "\x28\xb5\x2f\xfd\x00": "a zstd file",
		"\x50\x2a\x4d\x18": "a zstd file", "\x5f\x2a\x4d\x18": "a zstd file", "\x60\x2a\x4d\x18": "", "\x4f\x2a\x4d\x18": "",
		"BZh91AY&SY": "a bzip2 file", "BZh9\x17\x72\x45\x38\x50\x90": "a bzip2 file", "BZh01AY&SY": "", "BZhello world": "",
		at(1080, "\x53\xef"): "an ext2, ext3 or ext4 image", at(1024, "\xe2\xe1\xf5\xe0"): "an EROFS image",
		at(510, "\x55\xaaEFI PART"): "a GPT disk", at(510, "\x55\xaa"): "a disk with a boot sector", at(64<<10+64, "_BHRfS_M"): "a btrfs image",
	} {
		if f := Of([]byte(head)); f.Name != want {
			t.Errorf("%.20q: %q, want %q", head, f.Name, want)
		}
	}
	for _, m := range marks {
		if m.at+len(m.bytes) > HeadSize {
			t.Errorf("%s: its mark is not in the head", m.Name)
		}
		head := at(m.at, m.bytes) + strings.Repeat("\x00", 100)
		if f := Of([]byte(head)); f.Kind == Unknown || f.Name != m.Name && m.at < 4 {
			t.Errorf("%s is taken for %s", m.Name, f.Name)
		}
		if (m.Kind == Compressed) != (m.Unpack != "") || (m.Kind == Other) != (m.Advice != "") {
			t.Errorf("%s: nothing says what to do with it", m.Name)
		}
	}
}
