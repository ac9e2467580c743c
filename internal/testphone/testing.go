package testphone

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// ProgramsEnv names the directory with testphone and debian-adbd; tests with a
// phone run only where it is set.
const ProgramsEnv = "SOVEREIGN_TESTPHONE"

// Need skips a test where there can be no phone, and returns the directory of
// programs.
func Need(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(ProgramsEnv)
	if dir == "" {
		t.Skip("make test-phone runs it: " + ProgramsEnv + " names no directory of programs")
	}
	if os.Getuid() != 0 {
		t.Skip("a test phone takes root")
	}
	return dir
}

// New is a phone for a test, with an adb server of its own that is connected to
// it; both end with the test. change may change the defaults.
func New(t testing.TB, change func(*Options)) (*Phone, *Server) {
	t.Helper()
	programs := Need(t)
	o := Options{
		Dir: t.TempDir(), Box: filepath.Join(programs, "testphone"), ADBD: filepath.Join(programs, "debian-adbd"), Config: Defaults(),
	}
	var log logBuffer
	o.Log = &log
	if change != nil {
		change(&o)
	}
	p, err := Start(o)
	if err != nil {
		t.Fatalf("the test phone: %v\n%s", err, log.String())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("init of the phone says:\n%s", log.String())
			tell(t, o.Dir)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := StartServer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Connect(p.Address()); err != nil {
		t.Fatal(err)
	}
	return p, s
}

// maxTold is how much of a log's end a failed test shows, bytes.
const maxTold = 6 << 10

// tell shows what sovereignd and the machines of a phone have said.
func tell(t testing.TB, dir string) {
	t.Helper()
	for _, pattern := range []string{"sovereignd.log", "instances/*/console.log", "instances/*/machine.log"} {
		for _, state := range []string{"data/adb/sovereign/state", "data/local/tmp/sovereign/state"} {
			files, err := filepath.Glob(filepath.Join(dir, state, pattern))
			if err != nil {
				t.Error(err)
			}
			for _, file := range files {
				if text, err := os.ReadFile(file); err == nil { // it may have gone with its machine
					t.Logf("the end of %s:\n%s", file, text[max(0, len(text)-maxTold):])
				}
			}
		}
	}
}

// Root is how root is got: a change for New.
func Root(su string) func(*Options) {
	return func(o *Options) { o.Config.Su = su }
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
