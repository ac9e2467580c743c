package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"
)

// partition returns a hash partition with one tree block, and its root hash.
func partition(salt string) ([]byte, []byte) {
	p := make([]byte, 8192)
	copy(p, "verity\x00\x00")
	le := binary.LittleEndian
	le.PutUint32(p[8:], 1)
	le.PutUint32(p[12:], 1)
	copy(p[32:], "sha256")
	le.PutUint32(p[64:], 4096)
	le.PutUint32(p[68:], 4096)
	le.PutUint64(p[72:], 100)
	le.PutUint16(p[80:], uint16(len(salt)))
	copy(p[88:], salt)
	copy(p[4096:], "hashes")
	sum := sha256.Sum256(append([]byte(salt), p[4096:]...))
	return p, sum[:]
}

func TestSuperblock(t *testing.T) {
	p, root := partition("salt")
	s, err := Parse(p)
	if err != nil || s.DataBlocks != 100 || string(s.Salt) != "salt" || s.HashBlockSize != 4096 {
		t.Fatalf("got %+v, %v", s, err)
	}
	if err := s.CheckRoot(bytes.NewReader(p), root); err != nil {
		t.Error(err)
	}
	p[5000]++
	if err := s.CheckRoot(bytes.NewReader(p), root); err == nil || !strings.Contains(err.Error(), "root hash does not match") {
		t.Errorf("changed tree: got %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		change func([]byte)
		want   string
	}{
		{func(b []byte) { b[0] = 'V' }, "no signature"},
		{func(b []byte) { b[8] = 2 }, "version 2"},
		{func(b []byte) { copy(b[32:], "sha512") }, `algorithm "sha512"`},
		{func(b []byte) { b[65] = 3 }, "block size 768"},
		{func(b []byte) { b[72] = 0 }, "0 data blocks"},
		{func(b []byte) { b[81] = 2 }, "salt of"},
	} {
		p, _ := partition("salt")
		c.change(p)
		if _, err := Parse(p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", c.want, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	p, _ := partition("salt")
	f.Add(p[:512])
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Parse(b); err == nil && (len(s.Salt) > maxSalt || s.DataBlocks == 0) {
			t.Errorf("%+v", s)
		}
	})
}
