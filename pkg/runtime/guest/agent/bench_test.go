package agent

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/sovereign-build/sovereign/internal/muxhttp"
)

// BenchmarkExec carries 64 MiB out of a program and into one, over a socket:
// under the protocol, which looks for hellos and masks, and as bare yamux,
// which is what the first costs to compare with.
func BenchmarkExec(b *testing.B) {
	const size = 64 << 20
	part := make([]byte, 32<<10)
	g := &operatedGuest{programs: map[string]func(context.Context, ExecRequest, ExecIO) (int, error){
		"out": func(_ context.Context, _ ExecRequest, std ExecIO) (int, error) {
			for range size / len(part) {
				if _, err := std.Stdout.Write(part); err != nil {
					return 1, err
				}
			}
			return 0, nil
		},
		"in": func(_ context.Context, _ ExecRequest, std ExecIO) (int, error) {
			_, err := io.Copy(io.Discard, std.Stdin)
			return 0, err
		},
	}}
	pair := func(b *testing.B) (host, guest net.Conn) {
		b.Helper()
		l, err := net.Listen("unix", b.TempDir()+"/agent")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		if host, err = net.Dial("unix", l.Addr().String()); err != nil {
			b.Fatal(err)
		}
		if guest, err = l.Accept(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { host.Close() })
		return host, guest
	}
	ways := []struct {
		name    string
		connect func(*testing.B) *Client
	}{
		{"protocol", func(b *testing.B) *Client {
			host, guest := pair(b)
			go ServePort(b.Context(), guest, true, NewHandler(g)) //nolint:errcheck // ends with the connection
			c, err := Dial(b.Context(), host)
			if err != nil {
				b.Fatal(err)
			}
			return c
		}},
		{"bare", func(b *testing.B) *Client {
			host, guest := pair(b)
			server, err := muxhttp.NewServer(guest, sessionOptions(), NewHandler(g))
			if err != nil {
				b.Fatal(err)
			}
			go server.Serve()
			client, err := muxhttp.NewSession(host, sessionOptions())
			if err != nil {
				b.Fatal(err)
			}
			return NewStreams(client.Open)
		}},
	}
	for _, program := range []string{"out", "in"} {
		for _, way := range ways {
			b.Run(program+"/"+way.name, func(b *testing.B) {
				c := way.connect(b)
				b.SetBytes(size)
				for b.Loop() {
					std := ExecIO{Stdout: io.Discard}
					if program == "in" {
						std.Stdin = io.LimitReader(endless{}, size)
					}
					if code, err := c.Exec(b.Context(), ExecRequest{Argv: []string{program}}, std); err != nil || code != 0 {
						b.Fatal(code, err)
					}
				}
			})
		}
	}
}
