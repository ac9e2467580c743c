package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// hostileWords are what a guest may say: it sets the clipboard, moves the
// cursor, turns the direction of writing, and forges lines of this program.
const hostileWords = "\x1b]52;c;ZXZpbA==\a\u009b2J\x1b[31m\u202e\u2066\x7f\xff\b\x00\nforged: line\r\nhint: forged\rforged: line\u2028forged: line\u0085forged: line\v\fforged: \t\tcell\x1b"

// hostile is a sovereignd that says nothing else, whose guests do not either.
// With fails, that is what every error of it says too.
func hostile(fails bool) *fake {
	f := &fake{}
	f.words, f.why = hostileWords, hostileWords
	if fails {
		f.err = fault.Errorf(fault.Device, "guest agent: %s", hostileWords).Hintf("look: %s", hostileWords)
	}
	return f
}

// rawCommands carry a byte stream of the guest to whoever asked for it.
var rawCommands = []string{"exec", "psql", "console"}

// guestCommands are the command lines of all commands that take a machine's
// name, whatever is added to them later.
func guestCommands(t *testing.T) [][]string {
	t.Helper()
	dir := newBundle(t)
	more := map[string][]string{
		"run": {"--detach"}, "secret set": {"postgresql/password", "--from-file", "-"}, "grow": {"16GiB"}, "update": {dir},
	}
	var lines [][]string
	var walk func(path []string, cmd *cobra.Command)
	walk = func(path []string, cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(append(slices.Clone(path), sub.Name()), sub)
		}
		words := strings.Fields(cmd.Use)
		if len(path) == 0 || len(words) < 2 || !strings.HasPrefix(strings.TrimPrefix(words[1], "["), "NAME") || slices.Contains(rawCommands, path[0]) {
			return
		}
		name := "sql"
		if path[0] == "run" || path[0] == "doctor" {
			name = dir
		}
		line := append(slices.Clone(path), name)
		line = append(line, more[strings.Join(path, " ")]...)
		if cmd.Flags().Lookup("yes") != nil {
			line = append(line, "--yes")
		}
		lines = append(lines, line)
	}
	walk(nil, (&session{CLI: &CLI{}}).root())
	if len(lines) < 15 {
		t.Fatalf("only %q", lines)
	}
	return append(lines,
		[]string{"status"}, []string{"run", dir}, []string{"logs", "sql", "init"},
		[]string{"credentials", "sql", "postgresql/password"}, []string{"secret", "rotate", "sql", "postgresql/password"},
		[]string{cobra.ShellCompNoDescRequestCmd, "status", ""},
		[]string{cobra.ShellCompNoDescRequestCmd, "logs", "sql", ""},
		[]string{cobra.ShellCompNoDescRequestCmd, "credentials", "sql", ""},
	)
}

// Whatever a guest says, no command lets it drive a terminal or forge a line.
func TestHostileGuest(t *testing.T) {
	for _, line := range guestCommands(t) {
		for _, asJSON := range []bool{false, true} {
			for _, fails := range []bool{false, true} {
				args := line
				if asJSON {
					if line[0] == cobra.ShellCompNoDescRequestCmd {
						continue
					}
					args = append(slices.Clone(line), "--json")
				}
				h := hostile(fails)
				var out, errs bytes.Buffer
				c := &CLI{Args: args, Stdin: strings.NewReader("value"), Stdout: &out, Stderr: &errs, Builder: h, Dial: h.dial}
				c.Run(t.Context())
				if out.Len()+errs.Len() == 0 {
					t.Errorf("%q says nothing: it is not tried", args)
				}
				for name, text := range map[string]string{"output": out.String(), "errors": errs.String()} {
					if why := obeyed(text); why != "" {
						t.Errorf("%q, fails %v: %s: %s\n%q", args, fails, name, why, text)
					}
					// What these show are the lines of a program.
					own := line[0] == "reindex" || line[0] == "logs" && len(line) == 3
					if why := forged(text); why != "" && !own {
						t.Errorf("%q, fails %v: %s: %s\n%q", args, fails, name, why, text)
					}
				}
				if asJSON {
					for l := range strings.Lines(out.String()) {
						if !json.Valid([]byte(l)) {
							t.Errorf("%q: not JSON: %s", args, l)
						}
					}
				}
			}
		}
	}
}

// obeyed says what of a text a terminal would obey.
func obeyed(text string) string {
	if !utf8.ValidString(text) {
		return "it is not UTF-8"
	}
	for _, r := range text {
		if !unicode.IsPrint(r) && r != '\n' && r != '\t' {
			return fmt.Sprintf("it has the character %U", r)
		}
	}
	return ""
}

// forged is a line that passes for one of this program's own.
func forged(text string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "forged") || strings.HasPrefix(line, "hint: forged") {
			return "a line is forged: " + line
		}
	}
	return ""
}

// A value is printed as it is, or not at all.
func TestHostileSecret(t *testing.T) {
	h := hostile(false)
	var out, errs bytes.Buffer
	c := &CLI{Args: []string{"credentials", "sql", "postgresql/password"}, Stdout: &out, Stderr: &errs, Dial: h.dial}
	if code := c.Run(t.Context()); code != int(fault.Device) || out.Len() != 0 || !strings.Contains(errs.String(), "--json") {
		t.Errorf("exit %d, %q, %q", code, out.String(), errs.String())
	}
	errs.Reset()
	c.Args = append(c.Args, "--json")
	if code := c.Run(t.Context()); code != 0 {
		t.Fatalf("exit %d, %q", code, errs.String())
	}
	var got credentials
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Secrets[0].Value != strings.ToValidUTF8(hostileWords, "\ufffd") {
		t.Errorf("%v, %q", err, got.Secrets)
	}
}
