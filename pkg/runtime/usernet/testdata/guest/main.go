// Command guest is the init of the machine that the benchmarks and the test of
// a real guest boot. It brings up its network card from its own command line,
// sovereign.net=…, and serves
//
//	5001  reads all that comes, and answers with the number of bytes, 8 of them
//	5002  sends for ever
//	5003  sends back what comes
//	5004  is told a name of 4 bytes, "sink" or "flow", and an address, and does
//	      as 5001's or 5002's client there
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/network"
)

func main() {
	err := run()
	fmt.Println("guest:", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	log.SetFlags(0)
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("%s: %w", m[1], err)
		}
	}
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	line, err := cmdline.Parse(string(text))
	if err != nil {
		return err
	}
	if err := network.Up(context.Background(), line.Net); err != nil {
		return err
	}
	for port, serve := range map[string]func(net.Conn) error{
		"5001": func(c net.Conn) error {
			n, err := io.Copy(io.Discard, c)
			if err != nil {
				return err
			}
			return binary.Write(c, binary.BigEndian, n)
		},
		"5002": func(c net.Conn) error { return flow(c) },
		"5003": func(c net.Conn) error {
			if _, err := io.Copy(c, c); err != nil {
				return err
			}
			return c.(*net.TCPConn).CloseWrite()
		},
		"5004": obey,
	} {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					fmt.Println("accept:", err)
					return
				}
				go func() {
					if err := serve(c); err != nil {
						fmt.Println(port, err)
					}
					c.Close()
				}()
			}
		}()
	}
	mtu, err := os.ReadFile(filepath.Join("/sys/class/net", line.Net.Device, "mtu"))
	if err != nil {
		return err
	}
	fmt.Printf("guest: ready, mtu %s\n", strings.TrimSpace(string(mtu)))
	select {}
}

func flow(c net.Conn) error {
	b := make([]byte, 128<<10)
	for {
		if _, err := c.Write(b); err != nil {
			return nil // the other end has enough
		}
	}
}

// obey does as it is told, and says what came of it.
func obey(c net.Conn) error {
	b, err := io.ReadAll(c)
	if err != nil || len(b) < 5 {
		return fmt.Errorf("told %q, %v", b, err)
	}
	what, address := string(b[:4]), string(b[4:])
	to, err := net.Dial("tcp", address)
	if err != nil {
		_, err = fmt.Fprint(c, err)
		return err
	}
	defer to.Close()
	if what == "flow" {
		return flow(to)
	}
	_, err = io.Copy(io.Discard, to)
	return err
}
