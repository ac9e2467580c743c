// Package netd has names of the world looked up on a phone as Android does it.
//
// Android has no /etc/resolv.conf: which servers are asked, and whether over TLS,
// belongs to the network that is the default one at the moment, to a VPN before it,
// and to the owner's "Private DNS". netd knows all that, and answers for any program
// at a socket, as it does for Android's own libc. A program of Go would ask
// 127.0.0.1 instead, where nobody is.
//
// # Protocol
//
// That of Android 10 and later (system/netd/client/NetdClient.cpp,
// packages/modules/DnsResolver/DnsProxyListener.cpp), one query for a connection:
//
//	-> "resnsend NETWORK FLAGS BASE64" NUL     the query as in RFC 1035, 1024 bytes in all
//	<- int32   -errno, and nothing more; or the response code
//	<- uint32  length of the answer, big-endian as the former
//	<- the answer
//
// Network 0 is the one that the asking program would use.
package netd

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

const (
	// Socket is where netd answers.
	Socket = "/dev/socket/dnsproxyd"
	// resolvConf is what another Linux has instead.
	resolvConf = "/etc/resolv.conf"
	// maxCommand is CMD_BUF_SIZE of FrameworkListener.
	maxCommand = 1024
	// maxAnswer is that of DNS over a stream (RFC 1035, 4.2.2). netd has 8 KiB.
	maxAnswer = 1<<16 - 1
	header    = 12 // of a message
)

// Use has net.DefaultResolver ask netd wherever there is one and no resolv.conf.
// That is looked at for each question: netd may be started after this program.
func Use() { net.DefaultResolver = resolver(Socket, resolvConf) }

func resolver(socket, conf string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		if _, err := os.Stat(conf); errors.Is(err, os.ErrNotExist) {
			c, err := d.DialContext(ctx, "unix", socket)
			if err == nil {
				return &conn{Conn: c}, nil
			}
			if !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("netd: %w", err)
			}
		}
		return d.DialContext(ctx, network, address)
	}}
}

// conn looks like one to a DNS server over TCP, to the Go resolver: each message
// has its length before it.
type conn struct {
	net.Conn
	query  []byte
	answer []byte // what of it was not read yet
	asked  bool
}

func (c *conn) Write(b []byte) (int, error) {
	if c.query != nil || len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		return 0, errors.New("netd: a connection is for one query, in one piece")
	}
	c.query = append([]byte{}, b[2:]...)
	command, err := command(c.query)
	if err == nil {
		_, err = c.Conn.Write(command)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *conn) Read(b []byte) (int, error) {
	if !c.asked {
		answer, err := readAnswer(c.Conn, c.query)
		if err != nil {
			return 0, err
		}
		c.asked = true
		c.answer = append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)
	}
	if len(c.answer) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

// command is a query for netd.
func command(query []byte) ([]byte, error) {
	text := "resnsend 0 0 " + base64.StdEncoding.EncodeToString(query) + "\x00"
	if len(query) < header || len(text) > maxCommand {
		return nil, fmt.Errorf("netd: a query of %d bytes: it takes %d to %d", len(query), header, (maxCommand-len("resnsend 0 0 \x00"))/4*3)
	}
	return []byte(text), nil
}

// readAnswer reads netd's answer to a query.
func readAnswer(r io.Reader, query []byte) ([]byte, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, fmt.Errorf("netd gives no answer: %w", err)
	}
	code := int32(binary.BigEndian.Uint32(b[:]))
	if code < 0 {
		return nil, fmt.Errorf("netd: %w", syscall.Errno(-int64(code)))
	}
	_, err := io.ReadFull(r, b[:])
	size := binary.BigEndian.Uint32(b[:])
	if errors.Is(err, io.EOF) || err == nil && size == 0 {
		// No server has answered: there is a code and nothing else.
		return refusal(query, code)
	}
	if err != nil {
		return nil, fmt.Errorf("netd breaks off: %w", err)
	}
	if size > maxAnswer {
		return nil, fmt.Errorf("netd announces an answer of %d bytes: a message has at most %d", size, maxAnswer)
	}
	answer := make([]byte, size)
	if _, err := io.ReadFull(r, answer); err != nil {
		return nil, fmt.Errorf("netd breaks off: %w", err)
	}
	return answer, nil
}

// refusal is an answer without records.
func refusal(query []byte, code int32) ([]byte, error) {
	if len(query) < header || code > 15 {
		return nil, fmt.Errorf("netd answers with the code %d alone", code)
	}
	answer := append([]byte{}, query...)
	answer[2] |= 1 << 7                            // it is a response
	answer[3] = answer[3]&0x70 | 1<<7 | byte(code) // recursion is there
	return answer, nil
}
