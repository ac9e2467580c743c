package cli

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "write docs/cli anew")

const docsDir = "../../docs/cli"

// TestDocs makes the command reference and compares it with docs/cli, so that
// the two cannot part; go test ./internal/cli -run TestDocs -update mends it.
func TestDocs(t *testing.T) {
	want := map[string][]byte{}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" {
			return
		}
		var b bytes.Buffer
		if err := doc.GenMarkdownCustom(cmd, &b, func(link string) string { return link }); err != nil {
			t.Fatal(err)
		}
		want[strings.ReplaceAll(cmd.CommandPath(), " ", "_")+".md"] = fence(b.Bytes())
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	s := &session{CLI: &CLI{}}
	walk(s.root())
	if *update {
		if err := os.RemoveAll(docsDir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(docsDir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, data := range want {
			if err := os.WriteFile(filepath.Join(docsDir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	have, err := os.ReadDir(docsDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range have {
		if want[e.Name()] == nil {
			t.Errorf("docs/cli/%s describes no command", e.Name())
		}
	}
	for name, data := range want {
		got, err := os.ReadFile(filepath.Join(docsDir, name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("docs/cli/%s is stale: go test ./internal/cli -run TestDocs -update", name)
		}
	}
}

// fence keeps the columns of the exit codes, which Markdown would run
// together.
func fence(page []byte) []byte {
	var out []string
	inside := false
	for line := range strings.SplitSeq(string(page), "\n") {
		switch {
		case line == "EXIT STATUS":
			out = append(out, "### Exit status", "", "```")
			inside = true
			continue
		case inside && line == "":
			if out[len(out)-1] == "```" {
				continue
			}
			out = append(out, "```")
			inside = false
		}
		out = append(out, line)
	}
	return []byte(strings.Join(out, "\n"))
}
