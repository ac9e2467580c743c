package testphone

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// dial connects to adbd, in the phone's network namespace.
func (p *Phone) dial() (net.Conn, error) { return p.Dial(p.o.Config.ADBPort) }

// Dial connects to a port of the phone's loopback.
func (p *Phone) Dial(port int) (net.Conn, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.PID()))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	type result struct {
		conn net.Conn
		err  error
	}
	got := make(chan result)
	go func() {
		// The thread is thrown away with the namespace that it has entered.
		runtime.LockOSThread()
		conn, err := func() (net.Conn, error) {
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			f := os.NewFile(uintptr(fd), "adbd")
			defer f.Close()
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
				return nil, err
			}
			return net.FileConn(f)
		}()
		got <- result{conn, err}
	}()
	r := <-got
	return r.conn, r.err
}

// BreakAfter breaks the link to adbd when so many bytes more have gone through
// it, both ways together; it stays broken until it is called again. 0 mends it.
func (p *Phone) BreakAfter(n int64) {
	p.mu.Lock()
	p.limit, p.passed = n, 0
	p.mu.Unlock()
}

// Passed is how many bytes have gone through the link since BreakAfter.
func (p *Phone) Passed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// pass says how many of n bytes may pass, and whether the link is broken now.
func (p *Phone) pass(n int) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.passed
	p.passed += int64(n)
	if p.limit > 0 && p.passed >= p.limit {
		return int(max(0, p.limit-before)), true
	}
	return n, false
}

func (p *Phone) accept() {
	for {
		conn, err := p.listen.Accept()
		if err != nil {
			return
		}
		if _, broken := p.pass(0); broken {
			conn.Close()
			continue
		}
		go p.carry(conn)
	}
}

// cut ends all connections, as a cable does.
func (p *Phone) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.carrying {
		conn.Close()
	}
}

func (p *Phone) carry(conn net.Conn) {
	defer conn.Close()
	peer, err := p.dial()
	if err != nil {
		return
	}
	defer peer.Close()
	p.mu.Lock()
	p.carrying[conn], p.carrying[peer] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.carrying, conn)
		delete(p.carrying, peer)
		p.mu.Unlock()
	}()
	var both sync.WaitGroup
	one := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 16<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				n, broken := p.pass(n)
				if _, err := to.Write(buf[:n]); err != nil || broken {
					from.Close()
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	both.Go(func() { one(conn, peer) })
	both.Go(func() { one(peer, conn) })
	both.Wait()
}

var _ io.Closer = (*Phone)(nil)
