package e2e

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// slowRate is what a slow reader takes, in bytes a second.
	slowRate = 20 << 10
	// slowPart is how much it takes like that at the end, where the program in
	// the guest has already ended.
	slowPart = 256 << 10
	// stall is how long it then takes nothing at all, in a long run: longer
	// than every patience on the way.
	stall = 40 * time.Second
)

// streamSize is how much goes through exec, in bytes: SOVEREIGN_E2E_STREAM_MIB,
// which make test-long sets to 1024, or 48 MiB.
func streamSize(t *testing.T) int64 {
	t.Helper()
	text := os.Getenv("SOVEREIGN_E2E_STREAM_MIB")
	if text == "" {
		return 48 << 20
	}
	mib, err := strconv.ParseInt(text, 10, 32)
	if err != nil || mib < 1 {
		t.Fatalf("SOVEREIGN_E2E_STREAM_MIB=%s: want a number of MiB", text)
	}
	return mib << 20
}

// TestStreams has what goes into the guest and comes out of it arrive whole,
// at readers that take their time, and whatever it holds.
func TestStreams(t *testing.T) {
	m := newMachine(t)
	m.up(m.bundle)
	size := streamSize(t)

	t.Run("in and out, to a reader that is slow at the end", func(t *testing.T) {
		begin := time.Now()
		in := sha256.New()
		data := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{5}), size), in)
		got, n := m.in(t).slowly(size, data, "exec", "sql", "--stdin", "--", "cat")
		if want := hex.EncodeToString(in.Sum(nil)); n != size || got != want {
			t.Errorf("%d of %d bytes came out, digest %s, want %s", n, size, got, want)
		}
		t.Logf("%d MiB in %.0f s", size>>20, time.Since(begin).Seconds())
	})

	t.Run("out of psql, to a reader that is slow at the end", func(t *testing.T) {
		rows := int(size) / 640 // a fifteenth of the bytes: each costs a query's work
		want, length := sha256.New(), int64(0)
		for i := 1; i <= rows; i++ {
			n, _ := fmt.Fprintf(want, "%d\t%x\n", i, md5.Sum([]byte(strconv.Itoa(i))))
			length += int64(n)
		}
		query := fmt.Sprintf("COPY (SELECT i, md5(i::text) FROM generate_series(1, %d) AS i) TO STDOUT", rows)
		got, n := m.in(t).slowly(length, strings.NewReader(""), "psql", "sql", "--", "--no-psqlrc", "--command", query)
		if want := hex.EncodeToString(want.Sum(nil)); n != length || got != want {
			t.Errorf("%d of %d bytes came out, digest %s, want %s", n, length, got, want)
		}
	})

	t.Run("a dump that holds the agent's hellos", func(t *testing.T) {
		m := m.in(t)
		// Somebody else's talk with the guest goes on meanwhile.
		follow := exec.Command("../bin/sovereign-build", "logs", "sql", "init", "--follow")
		follow.Env = m.env
		lines, err := follow.StdoutPipe()
		if err == nil {
			err = follow.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(lines, make([]byte, 1)); err != nil {
			t.Fatalf("logs --follow: %v", err)
		}
		go io.Copy(io.Discard, lines) //nolint:errcheck // so that it is not held up
		ended := make(chan error, 1)
		go func() { ended <- follow.Wait() }()

		var dump, texts strings.Builder
		dump.WriteString("CREATE TABLE notes (id int PRIMARY KEY, body text);\nCOPY notes (id, body) FROM stdin;\n")
		const notes = 500
		for i := range notes {
			body := fmt.Sprintf("SOVEREIGN-AGENT %d %032x", 1+i%3, i)
			if i%2 == 1 {
				body += fmt.Sprintf(" %032x", i)
			}
			// A line feed behind the hello, as the end of the row and as text.
			fmt.Fprintf(&dump, "%d\t%s\n%d\tbefore\\n%s\\nbehind\n", 2*i, body, 2*i+1, body)
			fmt.Fprintf(&texts, "%s\nbefore\n%s\nbehind\n", body, body)
		}
		dump.WriteString("\\.\n")
		m.pipe(dump.String(), "psql", "sql", "--", "--no-psqlrc", "--set", "ON_ERROR_STOP=1")
		if got := m.ok("psql", "sql", "--", "--no-psqlrc", "-At", "--command", "SELECT body FROM notes ORDER BY id"); got != texts.String() {
			t.Errorf("%d bytes of notes, want %d", len(got), texts.Len())
		}
		select {
		case err := <-ended:
			t.Errorf("logs --follow ended meanwhile: %v", err)
		default:
		}
		if err := follow.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-ended
	})

	t.Run("into a full disk", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		for _, args := range [][]string{
			{"exec", "sql", "--", "cat", "/etc/passwd"},
			{"psql", "sql", "--", "--no-psqlrc", "--command", "SELECT 1"},
			{"logs", "sql"},
		} {
			var errs bytes.Buffer
			cmd := exec.Command("../bin/sovereign-build", args...)
			cmd.Env, cmd.Stdout, cmd.Stderr = m.env, full, &errs
			if err := cmd.Run(); err == nil || !strings.Contains(errs.String(), "no space left") {
				t.Errorf("%s: %v, %s", args[0], err, errs.String())
			}
		}
	})
	m.ok("down", "sql")
}

// pipe runs a command with standard input, which must go well.
func (m *machine) pipe(in string, args ...string) {
	m.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("../bin/sovereign-build", args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = m.env, strings.NewReader(in), &out, &out
	if err := cmd.Run(); err != nil {
		m.t.Fatalf("%s: %v: %s", args[0], err, out.String())
	}
}

// slowly runs a command, which must go well, and reads the last of its size
// bytes slowly. It returns the digest and the number of those that came.
func (m *machine) slowly(size int64, in io.Reader, args ...string) (digest string, n int64) {
	m.t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command("../bin/sovereign-build", args...)
	cmd.Env, cmd.Stdin, cmd.Stderr = m.env, in, &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	h := sha256.New()
	n, err = io.CopyN(h, out, size-slowPart)
	for rest := int64(slowPart); err == nil && rest > 0; rest -= slowRate {
		var part int64
		part, err = io.CopyN(h, out, min(rest, slowRate))
		n += part
		time.Sleep(time.Second) // the reader is slow: that is what is tried
		if os.Getenv("SOVEREIGN_E2E_STREAM_MIB") != "" && rest == slowPart {
			time.Sleep(stall)
		}
	}
	if err == nil {
		var more int64
		more, err = io.Copy(h, out) // nothing, if all is well
		n += more
	}
	if err != nil {
		m.t.Errorf("reading: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		m.t.Errorf("%s: %v: %s", args[0], err, errs.String())
	}
	return hex.EncodeToString(h.Sum(nil)), n
}
