package apk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// gzipped is one member.
func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sparse is a tar archive with a file of 1 TiB in which there is nothing.
func sparse(t testing.TB, name string) []byte {
	t.Helper()
	record := func(key, value string) string {
		n := len(key) + len(value) + 3
		for len(decimal(n))+len(key)+len(value)+3 != n {
			n = len(decimal(n)) + len(key) + len(value) + 3
		}
		return decimal(n) + " " + key + "=" + value + "\n"
	}
	records := record("GNU.sparse.major", "0") + record("GNU.sparse.minor", "1") + record("GNU.sparse.name", name) +
		record("GNU.sparse.size", "1099511627776") + record("GNU.sparse.numblocks", "0")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// The type of PAX headers, which the writer makes only of records it knows.
	for _, h := range []*tar.Header{{Name: "PaxHeaders/" + name, Typeflag: tar.TypeReg, Size: int64(len(records)), Format: tar.FormatUSTAR}, {Name: name, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(records)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	raw[156] = tar.TypeXHeader
	sum := 0
	for i, c := range raw[:512] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	copy(raw[148:156], strings.Repeat("0", 6-len(octal(sum)))+octal(sum)+"\x00 ")
	return raw
}

func decimal(n int) string { return digits(n, 10) }
func octal(n int) string   { return digits(n, 8) }

func digits(n, base int) string {
	s := ""
	for ; n > 0; n /= base {
		s = string(rune('0'+n%base)) + s
	}
	return s
}

// What unpacks to more than the limits is refused within them, before anything
// of it is trusted.
func TestHostileMembers(t *testing.T) {
	var zeros bytes.Buffer
	w := tar.NewWriter(&zeros)
	if err := w.WriteHeader(&tar.Header{Name: ".SIGN.RSA256.a.rsa.pub", Typeflag: tar.TypeReg, Size: maxControl + 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, maxControl+1)); err != nil {
		t.Fatal(err)
	}
	large := gzipped(t, zeros.Bytes())
	var many bytes.Buffer
	w = tar.NewWriter(&many)
	for range maxInMembers + 1 {
		if err := w.WriteHeader(&tar.Header{Name: ".SIGN.RSA256.a.rsa.pub", Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
	}
	var endless bytes.Buffer
	w = tar.NewWriter(&endless)
	if err := w.WriteHeader(&tar.Header{Name: ".PKGINFO", Typeflag: tar.TypeReg, Size: 1<<63 - 1, Format: tar.FormatGNU}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name           string
		data           []byte
		asPkg, asIndex string
	}{
		{"a sparse signature", gzipped(t, sparse(t, ".SIGN.RSA256.a.rsa.pub")), "unpacks to more than is allowed", "is not signed"},
		{"a sparse .PKGINFO", gzipped(t, sparse(t, ".PKGINFO")), "unpacks to more than is allowed", "is not signed"},
		{"a large signature", large, "unpacks to more than is allowed", "is not signed"},
		{"many signatures", gzipped(t, many.Bytes()), "more than 64 files", "more than 64 files"},
		{"a size at the end of the integers", gzipped(t, endless.Bytes()), ".PKGINFO: unexpected EOF", ".PKGINFO: unexpected EOF"},
	} {
		path := filepath.Join(t.TempDir(), "a.apk")
		if err := os.WriteFile(path, tt.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, testKeys()[0].Keyring()); err == nil || !strings.Contains(err.Error(), tt.asPkg) || fault.ClassOf(err) != fault.Source {
			t.Errorf("%s: package: %v, want %q", tt.name, err, tt.asPkg)
		}
		if _, err := ReadIndex(bytes.NewReader(tt.data), testKeys()[0].Keyring()); err == nil || !strings.Contains(err.Error(), tt.asIndex) {
			t.Errorf("%s: index: %v, want %q", tt.name, err, tt.asIndex)
		}
	}
}

func TestHostileRecords(t *testing.T) {
	const head = "C:Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nP:a\nV:1\nA:noarch\n"
	for _, tt := range []struct{ name, text, want string }{
		{"words without end", head + strings.Repeat("D:"+strings.Repeat("a ", 400_000)+"\n", 11), "more than 4000000 words"},
		{"a line without end", head + "D:" + strings.Repeat("a", maxRecord+1), "line 5: "},
		{"a negative size", head + "S:-1\n", "a size is negative"},
		{"a size beyond the integers", head + "I:9223372036854775808\n", "value out of range"},
		{"packages without end", strings.Repeat(head+"\n", maxPackages+1), "more than 200000 packages"},
	} {
		if _, err := parseRecords(strings.NewReader(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	// A field that is given twice goes on.
	metas, err := parseRecords(strings.NewReader(head + "p:x=1\np:x=2\nD:b\nD:c d\nS:9223372036854775807\n"))
	if err != nil || len(metas) != 1 || strings.Join(metas[0].Provides, " ") != "x=1 x=2" || strings.Join(metas[0].Depends, " ") != "b c d" || metas[0].Size != 1<<63-1 {
		t.Errorf("%+v, %v", metas, err)
	}
}

// What is taken for a package or an index and is none says what it is.
func TestOtherFormats(t *testing.T) {
	for data, want := range map[string]string{
		"ADBd\x00\x01\x02":         "it is of apk-tools 3's format (ADB), which is not supported",
		"ADB.pckg\x00\x00":         "apk-tools 3's format",
		"ADBc\x01\x00":             "apk-tools 3's format",
		"PK\x03\x04\x14\x00":       "a zip archive, such as an app for Android",
		"!<arch>\ndebian-binary  ": "an ar archive, such as a package of Debian",
		"\xed\xab\xee\xdb\x03":     "an RPM package",
		"<!DOCTYPE html><html>":    "a web page",
		"\x28\xb5\x2f\xfd\x00":     "compressed with zstd",
		"":                         "not gzip",
		"A":                        "not gzip",
	} {
		path := filepath.Join(t.TempDir(), "foo-1.0-r0.apk")
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		for what, open := range map[string]func() error{
			"Open":      func() error { _, err := Open(path, testKeys()[0].Keyring()); return err },
			"ReadMeta":  func() error { _, err := ReadMeta(path, testKeys()[0].Keyring()); return err },
			"ReadIndex": func() error { _, err := ReadIndex(strings.NewReader(data), testKeys()[0].Keyring()); return err },
		} {
			if err := open(); err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Source {
				t.Errorf("%s of %q: %v, want %q", what, data, err, want)
			}
		}
	}
}
