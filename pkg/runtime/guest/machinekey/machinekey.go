// Package machinekey is the key that a machine shares with whoever keeps it, and
// how both ends of a connection prove to each other that they have it.
//
// Where a guest is reached over vsock, the number of a machine and of a port is
// all that leads there: any program of the host that may open such a socket can
// dial a guest, and whoever starts a machine under a number that has become free
// is dialled in its place. So the first bytes of every connection are a proof in
// both directions, in three messages of fixed size:
//
//	host  → guest  "SVRNKEY1", 32 random bytes H
//	guest → host   32 random bytes G, HMAC-SHA256(key, "guest" and what follows)
//	host  → guest  HMAC-SHA256(key, "host" and what follows)
//
// What follows is the port (4 bytes, the highest first), H and G, so that a proof
// is of one connection to one port and of one end of it. Each end compares in
// constant time and closes the connection at the first byte that is wrong; the
// host says nothing more to a guest that has not proven itself. The proof is all:
// what comes behind it is not encrypted, as it passes nobody but the kernel of
// the host, which can read the guest's memory anyway.
//
// The key is made anew for each start of a machine and gets into the guest by a
// small read-only disk ([Key.Disk]): not by the command line, which anybody can
// read on both sides. The package opens no socket and no disk.
package machinekey

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Size is that of a key, in bytes.
const Size = 32

// Serial is that of the disk with the key, which the kernel command line names.
const Serial = "sovereign-key"

// DiskSize is that of the disk with the key, in bytes: a page, which every
// hypervisor takes for a disk.
const DiskSize = 4096

// diskMagic is what the disk begins with; the key follows, and zeros.
const diskMagic = "sovereign machine key 1\n"

// A Key is a secret of one start of a machine. It prints as a word, whatever the
// verb, so that no log ever has one.
type Key [Size]byte

// New makes a key.
func New() Key {
	var k Key
	rand.Read(k[:]) //nolint:errcheck // never fails: crypto/rand ends the program instead
	return k
}

// Format keeps a key out of everything that prints values.
func (Key) Format(s fmt.State, _ rune) { io.WriteString(s, "(machine key)") } //nolint:errcheck // fmt has no errors

// Disk is the content of the disk that carries the key.
func (k Key) Disk() []byte {
	b := make([]byte, DiskSize)
	copy(b[copy(b, diskMagic):], k[:])
	return b
}

// ReadDisk reads the key from such a disk.
func ReadDisk(r io.Reader) (Key, error) {
	var k Key
	b := make([]byte, DiskSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return k, fmt.Errorf("machine key: %w", err)
	}
	if !bytes.HasPrefix(b, []byte(diskMagic)) {
		return k, errors.New("machine key: the disk holds none of version 1")
	}
	copy(k[:], b[len(diskMagic):])
	if k == (Key{}) {
		return k, errors.New("machine key: the disk holds an empty one")
	}
	return k, nil
}

// ErrStranger is in the error of a proof that the other end could not give.
var ErrStranger = errors.New("the other end does not have the machine's key")

const (
	opening   = "SVRNKEY1"
	nonceSize = 32
	macSize   = sha256.Size
)

// proof is what an end sends. role is "host" or "guest".
func (k Key) proof(role string, port uint32, host, guest []byte) []byte {
	h := hmac.New(sha256.New, k[:])
	h.Write([]byte("sovereign machine key 1 " + role + "\x00"))
	h.Write(binary.BigEndian.AppendUint32(nil, port))
	h.Write(host)
	h.Write(guest)
	return h.Sum(nil)
}

// Host proves to the guest at the other end of a connection to its port that
// this is its host, and has it prove that it is the guest. It closes conn when
// it fails or ctx ends.
func (k Key) Host(ctx context.Context, conn net.Conn, port uint32) error {
	return exchange(ctx, conn, func() error {
		host := nonce()
		if _, err := conn.Write(append([]byte(opening), host...)); err != nil {
			return err
		}
		answer := make([]byte, nonceSize+macSize)
		if _, err := io.ReadFull(conn, answer); err != nil {
			return hungUp(err)
		}
		guest, mac := answer[:nonceSize], answer[nonceSize:]
		if !hmac.Equal(mac, k.proof("guest", port, host, guest)) {
			return ErrStranger
		}
		_, err := conn.Write(k.proof("host", port, host, guest))
		return err
	})
}

// Guest is the other end of Host: it returns when a host that has the key is at
// the other end of a connection to the port.
func (k Key) Guest(ctx context.Context, conn net.Conn, port uint32) error {
	return exchange(ctx, conn, func() error {
		first := make([]byte, len(opening)+nonceSize)
		if _, err := io.ReadFull(conn, first); err != nil {
			return hungUp(err)
		}
		if string(first[:len(opening)]) != opening {
			return fmt.Errorf("%w: it does not begin with %s", ErrStranger, opening)
		}
		host, guest := first[len(opening):], nonce()
		if _, err := conn.Write(append(bytes.Clone(guest), k.proof("guest", port, host, guest)...)); err != nil {
			return err
		}
		mac := make([]byte, macSize)
		if _, err := io.ReadFull(conn, mac); err != nil {
			return hungUp(err)
		}
		if !hmac.Equal(mac, k.proof("host", port, host, guest)) {
			return ErrStranger
		}
		return nil
	})
}

func nonce() []byte {
	b := make([]byte, nonceSize)
	rand.Read(b) //nolint:errcheck // as in New
	return b
}

// hungUp says of a connection that ended what that means: nobody ends one in the
// middle who has the key.
func hungUp(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w, or it ended: %w", ErrStranger, err)
	}
	return err
}

// exchange runs an end's part, and closes the connection where that fails.
func exchange(ctx context.Context, conn net.Conn, part func() error) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := part()
	if stop() && err == nil {
		return nil
	}
	conn.Close()
	if ctx.Err() != nil {
		return fmt.Errorf("machine key: no proof in time: %w", context.Cause(ctx))
	}
	return fmt.Errorf("machine key: %w", err)
}
