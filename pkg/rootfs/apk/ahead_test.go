package apk

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestReadAhead(t *testing.T) {
	for _, size := range []int{0, 1, aheadPiece - 1, aheadPiece, aheadPiece + 1, 20*aheadPiece + 7} {
		want := bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
		a := readAhead(iotest.HalfReader(bytes.NewReader(want)))
		got, err := io.ReadAll(a)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
		a.Close()
		a = readAhead(bytes.NewReader(want)) // closed before its end
		a.Close()
	}
	for _, bad := range []error{errors.New("bad"), io.ErrUnexpectedEOF} {
		a := readAhead(io.MultiReader(bytes.NewReader(make([]byte, 100)), iotest.ErrReader(bad)))
		if got, err := io.ReadAll(a); len(got) != 100 || err != bad {
			t.Errorf("read %d, %v", len(got), err)
		}
		a.Close()
	}
}
