package decompress

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func gz(t testing.TB, data []byte) []byte {
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

func zst(t testing.TB, data []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func read(r io.Reader) ([]byte, error) {
	z, err := New(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}

func TestNew(t *testing.T) {
	data := []byte(strings.Repeat("what was there ", 1000))
	const skip = "\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
	for name, in := range map[string][]byte{
		"plain": data, "gzip": gz(t, data), "gzip in two members": append(gz(t, data[:7]), gz(t, data[7:])...),
		"zstd": zst(t, data), "zstd in two frames": append(zst(t, data[:7]), zst(t, data[7:])...),
		"zstd after frames to skip": append([]byte(skip+"\x5f\x2a\x4d\x18\x00\x00\x00\x00"), zst(t, data)...),
		"zstd between them":         append(append([]byte(skip), zst(t, data)...), skip...),
	} {
		for _, r := range []io.Reader{bytes.NewReader(in), iotest.OneByteReader(bytes.NewReader(in)), iotest.DataErrReader(bytes.NewReader(in))} {
			if got, err := read(r); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
	}
	for name, in := range map[string][]byte{"nothing": nil, "a byte": {0x1f}, "zeros": make([]byte, 600)} {
		if got, err := read(bytes.NewReader(in)); err != nil || !bytes.Equal(got, in) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestErrors(t *testing.T) {
	data := []byte(strings.Repeat("what was there ", 1000))
	flip := func(b []byte, i int) []byte { b[(i+len(b))%len(b)] ^= 1; return b }
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"gzip cut":          {gz(t, data)[:60], "gzip: unexpected EOF"},
		"gzip cut early":    {gz(t, data)[:5], "gzip: unexpected EOF"},
		"gzip's end":        {gz(t, data)[:len(gz(t, data))-2], "gzip: unexpected EOF"},
		"gzip's checksum":   {flip(gz(t, data), -6), "gzip: invalid checksum"},
		"gzip's method":     {flip(gz(t, data), 2), "gzip: invalid header"},
		"zstd cut":          {zst(t, data)[:20], "zstd: unexpected EOF"},
		"zstd's mark":       {zst(t, data)[:4], "zstd: unexpected EOF"},
		"zstd's checksum":   {flip(zst(t, data), -1), "zstd: "},
		"nothing but skip":  {[]byte("\x50\x2a\x4d\x18\xff\xff\xff\xffab"), "zstd: unexpected EOF"},
		"a window of 1 GiB": {[]byte("\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00"), "a window of more than 128 MiB"},
		"xz":                {[]byte("\xfd7zXZ\x00\x00\x04"), "an xz file, and its compression is not understood"},
		"bzip2":             {[]byte("BZh91AY&SY\x00\x00"), "a bzip2 file"},
	} {
		_, err := read(bytes.NewReader(tt.in))
		if err == nil || fault.ClassOf(err) != fault.Source || !strings.HasPrefix(err.Error(), tt.want) && !strings.Contains(err.Error(), ": "+tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	var unsupported *UnsupportedError
	if _, err := read(strings.NewReader("\xfd7zXZ\x00")); !errors.As(err, &unsupported) || unsupported.Unpack != "xz -dc" {
		t.Errorf("%v", err)
	}
	broken := errors.New("the disk is on fire")
	if _, err := read(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if _, err := read(io.MultiReader(bytes.NewReader(gz(t, data)[:60]), iotest.ErrReader(fault.Wrap(fault.Verification, broken)))); !errors.Is(err, broken) || fault.ClassOf(err) != fault.Verification {
		t.Errorf("%v", err)
	}
}

// FuzzNew: any bytes come out or are an error, in bounded memory.
func FuzzNew(f *testing.F) {
	f.Add(gz(f, []byte("data")))
	f.Add(zst(f, []byte("data")))
	f.Add([]byte("\x50\x2a\x4d\x18\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := New(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer z.Close()
		if _, err := io.Copy(io.Discard, io.LimitReader(z, 16<<20)); err != nil && fault.ClassOf(err) != fault.Source {
			t.Errorf("class %d: %v", fault.ClassOf(err), err)
		}
	})
}
