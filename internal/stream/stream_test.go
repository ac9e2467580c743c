package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
)

func TestWithContext(t *testing.T) {
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := WithContext(ctx, iotest.OneByteReader(strings.NewReader("abc")))
	b := make([]byte, 3)
	if n, err := r.Read(b); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	cancel(why)
	if n, err := r.Read(b); n != 0 || err != why {
		t.Errorf("after the end: %d, %v", n, err)
	}
}

func TestAtMost(t *testing.T) {
	long := errors.New("too long")
	for _, c := range []struct {
		limit int64
		want  string
		err   error
	}{
		{math.MaxInt64, "abcdef", nil},
		{6, "abcdef", nil},
		{5, "abcde", long},
		{0, "", long},
		{-1, "", long},
	} {
		for name, r := range map[string]io.Reader{
			"whole":     strings.NewReader("abcdef"),
			"bytewise":  iotest.OneByteReader(strings.NewReader("abcdef")),
			"early EOF": iotest.DataErrReader(strings.NewReader("abcdef")),
		} {
			left := c.limit
			got, err := io.ReadAll(AtMost(r, &left, long))
			if string(got) != c.want || err != c.err {
				t.Errorf("%s, at most %d: %q, %v", name, c.limit, got, err)
			}
		}
	}
	left := int64(4)
	one, err := io.ReadAll(AtMost(strings.NewReader("abc"), &left, long))
	two, err2 := io.ReadAll(AtMost(strings.NewReader("def"), &left, long))
	if string(one) != "abc" || err != nil || string(two) != "d" || err2 != long {
		t.Errorf("a shared limit: %q, %v, %q, %v", one, err, two, err2)
	}
}

func TestZeros(t *testing.T) {
	b := bytes.Repeat([]byte("x"), 100)
	if _, err := io.ReadFull(Zeros, b); err != nil || !bytes.Equal(b, make([]byte, 100)) {
		t.Errorf("%v, %v", b, err)
	}
}
