package box

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	netdSocket = "/dev/socket/dnsproxyd"
	// DNSFile has the address of the server that the default network has, as
	// HOST:PORT. Without it the phone has no network.
	DNSFile = "/run/dns"
)

// serveNetd answers for names as netd does, of which only resnsend is there
// (DnsProxyListener.cpp): a command ends with NUL, has three arguments, and is at
// most 1024 bytes long.
func serveNetd() error {
	l, err := net.Listen("unix", netdSocket)
	if err != nil {
		return err
	}
	if err := os.Chmod(netdSocket, 0o660); err != nil {
		return err
	}
	if err := os.Chown(netdSocket, 0, 3003); err != nil { // inet
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = resNSend(c) // whoever asked is gone
			}()
		}
	}()
	return nil
}

func resNSend(c net.Conn) error {
	number := func(n int32) error { return binary.Write(c, binary.BigEndian, n) }
	command, err := bufio.NewReaderSize(io.LimitReader(c, 1024), 1024).ReadString(0)
	if err != nil {
		return err
	}
	words := strings.Split(strings.TrimSuffix(command, "\x00"), " ")
	if len(words) != 4 || words[0] != "resnsend" {
		return number(-int32(syscall.EINVAL))
	}
	for _, w := range words[1:3] {
		if _, err := strconv.ParseUint(w, 10, 32); err != nil {
			return number(-int32(syscall.EINVAL))
		}
	}
	query, err := base64.StdEncoding.DecodeString(words[3])
	if err != nil {
		return number(-int32(syscall.EILSEQ))
	}
	if len(query) < 12 {
		return number(-int32(syscall.EINVAL))
	}
	server, err := os.ReadFile(DNSFile)
	if err != nil {
		return number(-int32(syscall.ENONET))
	}
	answer, err := askServer(strings.TrimSpace(string(server)), query)
	if err != nil {
		return number(-int32(syscall.ETIMEDOUT))
	}
	if err := number(int32(answer[3] & 15)); err != nil {
		return err
	}
	if err := number(int32(len(answer))); err != nil {
		return err
	}
	_, err = c.Write(answer)
	return err
}

// askServer asks a server by UDP.
func askServer(server string, query []byte) ([]byte, error) {
	c, err := net.Dial("udp", server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	b := make([]byte, 8<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return nil, err
		}
		if n >= 12 && b[0] == query[0] && b[1] == query[1] {
			return b[:n], nil
		}
	}
}
