package adb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A scripted server: what it answers to each request of a connection. The real
// one is in internal/testphone.
func scripted(t *testing.T, answers map[string]string) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					request, err := readText(conn)
					if err != nil {
						return
					}
					answer, ok := answers[request]
					if !ok {
						answer = fail("unknown host service")
					}
					io.WriteString(conn, answer)
					if strings.HasPrefix(answer, "FAIL") || !strings.HasPrefix(request, "host:transport:") {
						return
					}
				}
			}()
		}
	}()
	return &Server{Address: l.Addr().String()}
}

func hex4(text string) string { return fmt.Sprintf("%04x%s", len(text), text) }
func fail(text string) string { return "FAIL" + hex4(text) }
func okay(text string) string { return "OKAY" + hex4(text) }

func packet(kind byte, content string) string {
	var b bytes.Buffer
	if err := writePacket(&b, kind, []byte(content)); err != nil {
		panic(err)
	}
	return b.String()
}

func TestServer(t *testing.T) {
	s := scripted(t, map[string]string{
		"host:version":                  okay("0029"),
		"host:devices-l":                okay("R58\tdevice product:p model:Pixel_9 device:d transport_id:1\nX                      unauthorized usb:1-2\nY no permissions (user in plugdev group; are your udev rules wrong?); see [http://x.y] usb:2\n"),
		"host-serial:R58:features":      okay("shell_v2,cmd"),
		"host:transport:R58":            "OKAY",
		"host:transport:X":              fail("device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set"),
		"shell,v2,raw:id -u":            "OKAY" + packet(kindStdout, "20") + packet(kindStderr, "hm") + packet(kindStdout, "00\n") + packet(kindExit, "\x00"),
		"shell,v2,raw:false":            "OKAY" + packet(kindStderr, "no\n") + packet(kindExit, "\x01"),
		"shell,v2,raw:cut":              "OKAY" + packet(kindStdout, "part"),
		"shell,v2,raw:huge":             "OKAY\x01\xff\xff\xff\x7f",
		"shell,v2,raw:strange":          "OKAY" + packet(9, ""),
		"shell,v2,raw:" + Quote("it's"): "OKAY" + packet(kindExit, "\x7f"),
		"tcp:7":                         fail("closed"),
		"tcp:8":                         "OKAYhello",
	})
	ctx := t.Context()
	if n, err := s.Version(ctx); n != 41 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	phones, err := s.Phones(ctx)
	want := []Phone{{"R58", "device", "p", "Pixel_9", "d"}, {Serial: "X", State: "unauthorized"}, {Serial: "Y", State: "no permissions"}}
	if err != nil || fmt.Sprint(phones) != fmt.Sprint(want) {
		t.Errorf("%v, %v", phones, err)
	}
	for i, wantClass := range []fault.Class{0, fault.Device, fault.Environment} {
		if err := phones[i].Trouble(); (err == nil) != (i == 0) || i > 0 && (fault.ClassOf(err) != wantClass || fault.HintOf(err) == "") {
			t.Errorf("%v", err)
		}
	}
	if out, err := s.Output(ctx, "R58", "id -u"); out != "2000\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	var exit *ExitError
	if _, err := s.Output(ctx, "R58", "false"); !errors.As(err, &exit) || exit.Code != 1 || !strings.HasSuffix(err.Error(), "no") {
		t.Error(err)
	}
	if err := s.Run(ctx, "R58", Quote("it's"), nil, nil, nil); !errors.As(err, &exit) || exit.Code != 127 {
		t.Error(err)
	}
	if _, err := s.Output(ctx, "R58", "cut"); !errors.Is(err, ErrLost) || fault.HintOf(err) == "" {
		t.Error(err)
	}
	for _, command := range []string{"huge", "strange"} {
		if _, err := s.Output(ctx, "R58", command); err == nil || fault.ClassOf(err) != fault.Device || errors.Is(err, ErrLost) {
			t.Error(err)
		}
	}
	if _, err := s.Output(ctx, "R58", "a\x00b"); fault.ClassOf(err) != fault.Usage {
		t.Error(err)
	}
	var r *Refusal
	if _, err := s.Open(ctx, "X", "shell:"); !errors.As(err, &r) || r.Kind != Unauthorized || !strings.Contains(fault.HintOf(err), "USB debugging") {
		t.Error(err)
	}
	if _, err := s.Open(ctx, "R58", "tcp:7"); err == nil || err.Error() != "nothing answers at the phone's tcp:7" {
		t.Error(err)
	}
	conn, err := s.Open(ctx, "R58", "tcp:8")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if text, err := io.ReadAll(conn); string(text) != "hello" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

// What a server of another program, of another age or of no manners says.
func TestServerBad(t *testing.T) {
	for answer, want := range map[string]string{
		okay("0020"):           "of version 32",
		okay("zz"):             "no adb server",
		"HTTP/1.1 400":         "no adb server",
		"OKAYxyz1":             "no adb server",
		"OKAY":                 ErrLost.Error(),
		"OKAY00ff":             ErrLost.Error(),
		"":                     ErrLost.Error(),
		fail("device offline"): "device offline",
	} {
		s := scripted(t, map[string]string{"host:version": answer})
		if _, err := s.Version(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for text, want := range map[string]Kind{
		"device unauthorized.\nThis adb": Unauthorized, "device still authorizing": Authorizing, "device offline": Offline,
		"device still connecting": Offline, "more than one device/emulator": Several, "no devices/emulators found": NotThere,
		"device 'X' not found": NotThere, "insufficient permissions for device: user in plugdev group": NoPermissions, "closed": Other,
	} {
		var r *Refusal
		err := refusal(text)
		if !errors.As(err, &r) || r.Kind != want || (fault.HintOf(err) == "") != (want == Other) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestDefault(t *testing.T) {
	for _, tt := range []struct{ socket, address, port, want string }{
		{"", "", "", "127.0.0.1:5037"},
		{"", "", "15037", "127.0.0.1:15037"},
		{"", "192.0.2.1", "7", "192.0.2.1:7"},
		{"tcp:9", "x", "8", "127.0.0.1:9"},
		{"tcp:host:9", "", "", "host:9"},
		{"local:x", "", "", ""},
		{"tcp:0", "", "", ""},
		{"", "", "no", ""},
	} {
		env := map[string]string{"ADB_SERVER_SOCKET": tt.socket, "ANDROID_ADB_SERVER_ADDRESS": tt.address, "ANDROID_ADB_SERVER_PORT": tt.port}
		s, err := fromEnvironment(func(name string) string { return env[name] })
		if tt.want == "" {
			if fault.ClassOf(err) != fault.Environment {
				t.Errorf("%v: %v", tt, err)
			}
		} else if err != nil || s.Address != tt.want {
			t.Errorf("%v: %v, %v", tt, s, err)
		}
	}
}

// A server is started only where none is, and only here.
func TestStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	program := filepath.Join(dir, "adb")
	script := "#!/bin/sh\necho \"$@\" >" + filepath.Join(dir, "args") + "\necho it failed >&2\nexit 1\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free)
	for _, tt := range []struct {
		s    *Server
		want string
	}{
		{&Server{Address: free}, "no adb here"},
		{&Server{Address: free, Program: program}, "it failed"},
	} {
		if _, err := tt.s.Version(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) || fault.ClassOf(err) != fault.Environment {
			t.Error(err)
		}
	}
	if args, err := os.ReadFile(filepath.Join(dir, "args")); string(args) != "-P "+port+" start-server\n" || err != nil {
		t.Errorf("%q, %v", args, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := Server{Address: free, Program: program}
	if _, err := s.Version(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A command that ends while standard input is still open, a context that ends,
// and input that fails: none of them hangs, or passes for the whole.
func TestRunEnds(t *testing.T) {
	s := scripted(t, map[string]string{
		"host:transport:P":   "OKAY",
		"shell,v2,raw:early": "OKAY" + packet(kindExit, "\x00"),
	})
	never, close := io.Pipe()
	defer close.Close()
	if err := s.Run(t.Context(), "P", "early", never, nil, nil); err != nil {
		t.Error(err)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0") // which never answers a command
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			for range 2 {
				readText(conn)
				io.WriteString(conn, "OKAY")
			}
			go io.Copy(io.Discard, conn)
		}
	}()
	silent := &Server{Address: l.Addr().String()}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := silent.Run(ctx, "P", "wait", nil, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	broken := errors.New("the disk broke")
	if err := silent.Run(t.Context(), "P", "wait", io.MultiReader(strings.NewReader("x"), failing{broken}), nil, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzPhones(f *testing.F) {
	f.Add("R58\tdevice product:p model:m device:d transport_id:1\n")
	f.Add("x no permissions (a; b); see [c] usb:1")
	f.Fuzz(func(t *testing.T, text string) {
		phones, err := parsePhones(text)
		if err != nil && fault.ClassOf(err) != fault.Environment {
			t.Fatal(err)
		}
		for _, p := range phones {
			if p.Serial == "" || p.State == "" || strings.ContainsAny(p.State, "\x1b\r\n") {
				t.Fatalf("%+v", p)
			}
		}
	})
}

// FuzzPackets reads what a phone's shell sends, whole or not.
func FuzzPackets(f *testing.F) {
	f.Add([]byte(packet(kindStdout, "x") + packet(kindStderr, "y") + packet(kindExit, "\x00")))
	f.Add([]byte(packet(kindExit, "")))
	f.Add([]byte("\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out, errs bytes.Buffer
		code, err := demux(bytes.NewReader(b), &out, &errs)
		if out.Len()+errs.Len() > len(b) || code < 0 || code > 255 || err == nil && len(b) < headerSize+1 {
			t.Fatalf("%d, %v, %d, %d", code, err, out.Len(), errs.Len())
		}
	})
}

// FuzzAnswer reads what a server answers.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("OKAY0004abcd"))
	f.Add([]byte("FAIL0006closed"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		err := readStatus(r)
		if err == nil {
			_, err = readText(r)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\r\n") {
			t.Fatalf("%q", err)
		}
	})
}
