package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/cli anew")

const docsDir = "../../docs/cli"

// TestDocs makes the command reference, a page for each topic, and compares it
// with docs/cli, so that the two cannot part; go test ./internal/cli -run
// TestDocs -update mends it.
func TestDocs(t *testing.T) {
	want := reference()
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
			t.Errorf("docs/cli/%s describes no topic", e.Name())
		}
	}
	for name, data := range want {
		got, err := os.ReadFile(filepath.Join(docsDir, name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("docs/cli/%s is stale: go test ./internal/cli -run TestDocs -update", name)
		}
	}
}

// reference is the pages of docs/cli by their names.
func reference() map[string][]byte {
	s := &session{CLI: &CLI{}}
	root := s.root()
	pages := map[string][]byte{}
	var index bytes.Buffer
	fmt.Fprintf(&index, "# %s\n\n%s\n\n", root.Name(), root.Long)
	writeBlock(&index, root.Example)
	index.WriteString("Flags of every command:\n\n")
	writeBlock(&index, root.PersistentFlags().FlagUsages())
	for _, t := range s.topics() {
		var page bytes.Buffer
		fmt.Fprintf(&page, "# %s\n\n%s\n\n[All commands](README.md)\n", t.title, t.about)
		fmt.Fprintf(&index, "## [%s](%s.md)\n\n%s\n\n| | |\n|---|---|\n", t.title, t.id, t.about)
		for _, cmd := range root.Commands() {
			if cmd.GroupID != t.id {
				continue
			}
			fmt.Fprintf(&index, "| [%s](%s.md#%s) | %s |\n", cmd.Name(), t.id, anchor(cmd), cmd.Short)
			writeCommand(&page, cmd)
		}
		index.WriteString("\n")
		pages[t.id+".md"] = page.Bytes()
	}
	pages["README.md"] = append(bytes.TrimRight(index.Bytes(), "\n"), '\n')
	return pages
}

// anchor is what a heading's link is made of.
func anchor(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

func writeCommand(w *bytes.Buffer, cmd *cobra.Command) {
	if cmd.Hidden {
		return
	}
	about, exit, _ := strings.Cut(cmd.Long, "EXIT STATUS\n\n")
	level := strings.Repeat("#", 1+strings.Count(cmd.CommandPath(), " "))
	fmt.Fprintf(w, "\n%s %s\n\n%s\n\n", level, cmd.CommandPath(), strings.TrimSpace(about))
	if subs := cmd.Commands(); len(subs) > 0 {
		for _, sub := range subs {
			fmt.Fprintf(w, "- [%s](#%s): %s\n", sub.Name(), anchor(sub), sub.Short)
		}
		for _, sub := range subs {
			writeCommand(w, sub)
		}
		return
	}
	writeBlock(w, cmd.UseLine())
	w.WriteString("For example:\n\n")
	writeBlock(w, cmd.Example)
	cmd.Flags().Lookup("help").Hidden = true
	if flags := cmd.NonInheritedFlags(); flags.HasAvailableFlags() {
		w.WriteString("Flags:\n\n")
		writeBlock(w, flags.FlagUsages())
	}
	w.WriteString("Exit status:\n\n")
	writeBlock(w, exit)
	w.Truncate(w.Len() - 1)
}

// writeBlock writes text as it is, which Markdown would run together.
func writeBlock(w *bytes.Buffer, text string) {
	fmt.Fprintf(w, "```\n%s\n```\n\n", strings.Trim(text, "\n"))
}
