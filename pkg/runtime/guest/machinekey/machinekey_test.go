package machinekey

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// meet connects the two ends, each with its key and the port that it takes the
// connection for.
func meet(t *testing.T, host, guest Key, hostPort, guestPort uint32) (hostErr, guestErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- guest.Guest(ctx, b, guestPort) }()
	hostErr = host.Host(ctx, a, hostPort)
	if hostErr == nil { // the guest has the last word, and gives none
		go a.Write([]byte("x"))
		if guestErr = <-ended; guestErr == nil {
			got := make([]byte, 1)
			if _, err := io.ReadFull(b, got); err != nil || got[0] != 'x' {
				t.Errorf("behind the proof: %q, %v", got, err)
			}
		}
		return hostErr, guestErr
	}
	return hostErr, <-ended
}

func TestProof(t *testing.T) {
	k := New()
	if h, g := meet(t, k, k, 1024, 1024); h != nil || g != nil {
		t.Errorf("the same key: host %v, guest %v", h, g)
	}
	for what, try := range map[string]func() (error, error){
		"another key":  func() (error, error) { return meet(t, k, New(), 1024, 1024) },
		"another port": func() (error, error) { return meet(t, k, k, 1024, 1025) },
		"no key":       func() (error, error) { return meet(t, Key{}, k, 1024, 1024) },
	} {
		h, g := try()
		if !errors.Is(h, ErrStranger) {
			t.Errorf("%s: the host says %v", what, h)
		}
		if g == nil {
			t.Errorf("%s: the guest takes it", what)
		}
	}
}

// A stranger who speaks the protocol without the key is refused by each end.
func TestStrangers(t *testing.T) {
	k := New()
	t.Run("guest refuses", func(t *testing.T) {
		for name, say := range map[string]func(net.Conn){
			"other words": func(c net.Conn) { io.WriteString(c, strings.Repeat("GET / HTTP/1.1\r\n", 3)) },
			"wrong proof": func(c net.Conn) {
				io.WriteString(c, opening+strings.Repeat("h", nonceSize))
				answer := make([]byte, nonceSize+macSize)
				io.ReadFull(c, answer)
				c.Write(answer[nonceSize:]) // the guest's own proof, sent back
			},
			"hangs up": func(c net.Conn) { io.WriteString(c, opening); c.Close() },
		} {
			a, b := net.Pipe()
			go say(a)
			if err := k.Guest(t.Context(), b, 1024); !errors.Is(err, ErrStranger) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := b.Write([]byte("x")); err == nil {
				t.Errorf("%s: the connection is still open", name)
			}
			a.Close()
		}
	})
	t.Run("host refuses", func(t *testing.T) {
		a, b := net.Pipe()
		said := make(chan int, 1)
		go func() {
			io.ReadFull(b, make([]byte, len(opening)+nonceSize))
			b.Write(make([]byte, nonceSize+macSize))
			n, _ := io.Copy(io.Discard, b)
			said <- int(n)
		}()
		if err := k.Host(t.Context(), a, 1024); !errors.Is(err, ErrStranger) {
			t.Errorf("got %v", err)
		}
		if n := <-said; n != 0 {
			t.Errorf("the host said %d bytes more to a stranger", n)
		}
	})
}

func TestTooSlow(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := New().Guest(ctx, b, 1024); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// The proof is held to what others may have to compute: see docs/security.md.
func TestKnownProof(t *testing.T) {
	var k Key
	for i := range k {
		k[i] = byte(i)
	}
	got := hex.EncodeToString(k.proof("guest", 1024, bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)))
	// Python: hmac.new(bytes(range(32)), b"sovereign machine key 1 guest\0" + …, "sha256")
	const want = "87502bc88d1306aafffba6f9c310d53150e5b064a9300fa99ab3048deda7308b"
	if got != want {
		t.Errorf("proof %s, want %s", got, want)
	}
}

func TestDisk(t *testing.T) {
	k := New()
	disk := k.Disk()
	if len(disk) != DiskSize {
		t.Fatalf("%d bytes", len(disk))
	}
	got, err := ReadDisk(bytes.NewReader(disk))
	if err != nil || got != k {
		t.Errorf("read back: %v, %v", got == k, err)
	}
	empty := Key{}
	for name, b := range map[string][]byte{"short": disk[:100], "zeros": make([]byte, DiskSize), "empty key": empty.Disk()} {
		if _, err := ReadDisk(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestNeverPrinted(t *testing.T) {
	k := New()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		if s := fmt.Sprintf(verb, k); s != "(machine key)" {
			t.Errorf("%s prints %s", verb, s)
		}
		if s := fmt.Sprintf(verb, &k); strings.Contains(s, hex.EncodeToString(k[:4])) {
			t.Errorf("%s of a pointer prints %s", verb, s)
		}
	}
}

func FuzzReadDisk(f *testing.F) {
	f.Add(New().Disk())
	f.Add([]byte(diskMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ReadDisk(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(k.Disk(), b[:len(diskMagic)+Size]) {
			t.Error("a disk that is not what it was read from")
		}
	})
}
