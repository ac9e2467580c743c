package dm

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// TestRequest holds the buffer to <linux/dm-ioctl.h>.
func TestRequest(t *testing.T) {
	b, err := request("data", flagSuspend, []byte("12345678"))
	if err != nil {
		t.Fatal(err)
	}
	e := binary.NativeEndian
	if len(b) != 320 || e.Uint32(b[0:]) != 4 || e.Uint32(b[12:]) != 320 || e.Uint32(b[16:]) != 312 || e.Uint32(b[28:]) != 2 ||
		!bytes.HasPrefix(b[48:], []byte("data\x00")) || string(b[312:]) != "12345678" {
		t.Fatalf("%x", b)
	}
	for _, name := range []string{"", strings.Repeat("x", 128)} {
		if _, err := request(name, 0, nil); err == nil {
			t.Errorf("a name of %d bytes", len(name))
		}
	}
	if err := Load("x", Target{Type: strings.Repeat("x", 16)}, false); err == nil {
		t.Error("a type of 16 bytes")
	}
}

func answer(start, count, flags uint32, status string) []byte {
	b := make([]byte, headSize+targetSize)
	e := binary.NativeEndian
	e.PutUint32(b[atStart:], start)
	e.PutUint32(b[atCount:], count)
	e.PutUint32(b[atFlags:], flags)
	return append(b, status...)
}

func TestParseStatus(t *testing.T) {
	if s, err := parseStatus(answer(headSize, 1, 0, "16/2048 16\x00rest")); err != nil || s != "16/2048 16" {
		t.Errorf("%q, %v", s, err)
	}
	for name, b := range map[string][]byte{
		"no table":  answer(headSize, 0, 0, ""),
		"over":      answer(headSize, 1, flagTruncated, ""),
		"at byte":   answer(1<<31, 1, 0, ""),
		"an answer": make([]byte, 10),
	} {
		if _, err := parseStatus(b); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzStatus(f *testing.F) {
	f.Add(answer(headSize, 1, 0, "Invalid\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) { parseStatus(b) }) //nolint:errcheck // it must not panic
}
