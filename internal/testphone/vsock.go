package testphone

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// Vsock is an adb server for programs of a test, in front of the real one: a kernel
// without vsock for guests has adbd open no "vsock:CID:PORT". Here that is opened by
// adbd all the same, but as the socket that package vhostvsock makes for a machine in
// a directory of the phone, and what the guest's kernel would do is done: the port is
// asked for, and the stream follows. Everything else passes as it is.
type Vsock struct {
	Port int
	l    net.Listener
	dir  string
	real int

	mu     sync.Mutex
	opened []string // "CID:PORT"
}

// StartVsock starts one in front of s. dir is where machines' sockets are, on the
// phone; it is to be adbd's as well.
func StartVsock(s *Server, dir string) (*Vsock, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	v := &Vsock{Port: l.Addr().(*net.TCPAddr).Port, l: l, dir: dir, real: s.Port}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = v.carry(conn) // whoever asked is gone, or hears of it
			}()
		}
	}()
	return v, nil
}

// Close ends it.
func (v *Vsock) Close() error { return v.l.Close() }

// Opened are the ports of machines that were asked for.
func (v *Vsock) Opened() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string(nil), v.opened...)
}

func (v *Vsock) carry(client net.Conn) error {
	server, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(v.real)))
	if err != nil {
		return err
	}
	defer server.Close()
	in, out := bufio.NewReader(client), bufio.NewReader(server)
	for {
		request, err := readRequest(in)
		if err != nil {
			return err
		}
		port := ""
		if rest, ok := strings.CutPrefix(request, "vsock:"); ok {
			cid := ""
			if cid, port, ok = strings.Cut(rest, ":"); !ok {
				return errors.New("vsock without a port")
			}
			v.mu.Lock()
			v.opened = append(v.opened, rest)
			v.mu.Unlock()
			request = "localfilesystem:" + v.dir + "/" + cid + ".sock"
		}
		if _, err := fmt.Fprintf(server, "%04x%s", len(request), request); err != nil {
			return err
		}
		if !strings.HasPrefix(request, "host:transport:") && port == "" {
			return both(client, in, server, out) // it is the last
		}
		var status [4]byte
		if _, err := io.ReadFull(out, status[:]); err != nil {
			return err
		}
		if string(status[:]) == "OKAY" && port != "" {
			if err := connect(server, out, port); err != nil {
				return err // as adbd ends what it cannot connect
			}
		}
		if _, err := client.Write(status[:]); err != nil {
			return err
		}
		if string(status[:]) != "OKAY" || port != "" {
			return both(client, in, server, out)
		}
	}
}

func readRequest(r io.Reader) (string, error) {
	var digits [4]byte
	if _, err := io.ReadFull(r, digits[:]); err != nil {
		return "", err
	}
	n, err := strconv.ParseUint(string(digits[:]), 16, 16)
	if err != nil {
		return "", err
	}
	text := make([]byte, n)
	_, err = io.ReadFull(r, text)
	return string(text), err
}

// connect asks a machine's device for a port.
func connect(w io.Writer, r *bufio.Reader, port string) error {
	if _, err := fmt.Fprintf(w, "CONNECT %s\n", port); err != nil {
		return err
	}
	line, err := r.ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "OK ") {
		err = fmt.Errorf("the device says %q", line)
	}
	return err
}

// both carries both ways until either end is gone.
func both(a net.Conn, fromA io.Reader, b net.Conn, fromB io.Reader) error {
	var work sync.WaitGroup
	one := func(to net.Conn, from io.Reader, half bool) {
		_, _ = io.Copy(to, from) // its end is that of this direction
		if tcp, ok := to.(*net.TCPConn); ok && half {
			tcp.CloseWrite() //nolint:errcheck // the other direction says so
			return
		}
		a.Close()
		b.Close()
	}
	work.Go(func() { one(b, fromA, true) })
	work.Go(func() { one(a, fromB, false) })
	work.Wait()
	return nil
}
