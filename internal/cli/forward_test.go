package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// echoed says something to a port, to the end, and returns what comes back to
// the end.
func echoed(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "SELECT 1"); err != nil {
		t.Error(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Error(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	return string(got)
}

// A port here leads to one of the machine for as long as the command goes on,
// and both directions end one at a time.
func TestForward(t *testing.T) {
	for _, args := range []string{"forward sql 5432 --json", "dsn sql --json --device ssh:nas"} {
		ctx, cancel := context.WithCancel(t.Context())
		address := ""
		out := &lineWriter{each: func(line string) {
			var got struct{ Address, URL string }
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Error(err)
			}
			if address = got.Address; address == "" {
				u, err := url.Parse(got.URL)
				if err != nil {
					t.Error(err)
					return
				}
				address = u.Host
			}
			go func() {
				defer cancel()
				for range 3 {
					if got := echoed(t, address); got != "SELECT 1" {
						t.Errorf("%s: %q", args, got)
					}
				}
			}()
		}}
		var errs bytes.Buffer
		f := &fake{}
		c := &CLI{Args: strings.Fields(args), Stdout: out, Stderr: &errs, Dial: f.dial}
		if code := c.Run(ctx); code != 0 {
			t.Errorf("%s: exit %d, %s", args, code, errs.String())
		}
		if _, err := net.Dial("tcp", address); err == nil {
			t.Errorf("%s: somebody listens at %s still", args, address)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := strings.Cut(taken.Addr().String(), ":")
	for args, want := range map[string]fault.Class{
		"forward sql": fault.Usage, "forward sql x": fault.Usage, "forward sql 5432:": fault.Usage, "forward sql 5432:0": fault.Usage,
		"forward sql 0": fault.Usage, "forward sql 65536": fault.Usage, "forward sql 81": fault.Usage, "forward nobody 5432": fault.Usage,
		"forward sql 5432:" + port: fault.Environment,
	} {
		if code, _, errs := call(t, t.Context(), &fake{}, strings.Fields(args)...); code != int(want) {
			t.Errorf("%s: exit %d, %s", args, code, errs)
		}
	}
}

func FuzzMetrics(f *testing.F) {
	f.Add([]byte("# HELP a b\na 1\nb{service=\"x\"} 2.5\nc NaN\n"))
	f.Add([]byte("\n 1\nx\x00 2\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for name, v := range parseMetrics(text) {
			if name == "" || v != v {
				t.Fatalf("%q: %v", name, v)
			}
		}
	})
}

func FuzzDevices(f *testing.F) {
	f.Add([]byte("# ours\nssh:nas\n\nexec:a b\n"))
	f.Add([]byte("local\nwhatever"))
	f.Fuzz(func(t *testing.T, text []byte) {
		known, err := readDevices("devices", bytes.NewReader(text))
		if err != nil && fault.ClassOf(err) != fault.Usage {
			t.Fatal(err)
		}
		for _, d := range known {
			if d.Local() {
				t.Fatal("this computer is in the list")
			}
		}
	})
}
