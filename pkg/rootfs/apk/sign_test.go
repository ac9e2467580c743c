package apk

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// An image holds the sizes of its packages, and must not tell who signed them.
func TestSizeTellsNothingOfTheKey(t *testing.T) {
	tree := rootfs.New()
	if err := tree.Add(rootfs.Regular("f", 0o644, []byte("text"))); err != nil {
		t.Fatal(err)
	}
	meta := Meta{Name: "p", Version: "1-r0", Arch: "x86_64", License: "MIT"}
	var unsigned bytes.Buffer
	plain, err := Write(&unsigned, meta, tree, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", strings.Repeat("long", 19), "a", "a"} {
		key, err := GenerateKey(name)
		if err != nil {
			t.Fatal(err)
		}
		var at, later bytes.Buffer
		signed, err := Write(&at, meta, tree, key, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := Sign(&later, bytes.NewReader(unsigned.Bytes()), key, 1); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(at.Bytes(), later.Bytes()) {
			t.Errorf("key %.5s: a package signed later is another", name)
		}
		size, err := SignatureSize()
		if err != nil {
			t.Fatal(err)
		}
		if signed.Size != plain.Size+size || size != 1024+28 || signed.Size != int64(at.Len()) {
			t.Errorf("key %.5s: size %d, %d bytes, signature %d, without %d", name, signed.Size, at.Len(), size, plain.Size)
		}
		if signed.Checksum != plain.Checksum {
			t.Errorf("key %.5s: checksum %s, unsigned %s", name, signed.Checksum, plain.Checksum)
		}
		path := filepath.Join(t.TempDir(), "p.apk")
		if err := os.WriteFile(path, later.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadMeta(path, key.Keyring()); err != nil {
			t.Errorf("key %.5s: %v", name, err)
		}
		if err := Sign(&later, bytes.NewReader(at.Bytes()), key, 1); fault.ClassOf(err) != fault.Usage {
			t.Errorf("signed twice: %v", err)
		}
	}
	for _, name := range []string{"", "a b", "a/b", "ä", strings.Repeat("x", 100)} {
		if _, err := GenerateKey(name); fault.ClassOf(err) != fault.Usage {
			t.Errorf("key named %.9q: %v", name, err)
		}
	}
}
