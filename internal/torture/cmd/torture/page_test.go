package main

import (
	"os"
	"testing"

	"github.com/sovereign-build/sovereign/internal/torture"
)

func TestReplaceBlock(t *testing.T) {
	const begin, end = "<!-- torture: cuts begin -->\n", "<!-- torture: cuts end -->"
	got, err := replaceBlock("a\n"+begin+"old\n"+end+"\nz\n", "cuts", "new\n")
	if want := "a\n" + begin + "new\n" + end + "\nz\n"; err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	for _, page := range []string{"", begin, end + begin, "<!-- torture: kills begin -->\n<!-- torture: kills end -->"} {
		if _, err := replaceBlock(page, "cuts", "x"); err == nil {
			t.Errorf("%q has a block", page)
		}
	}
}

// The page has a place for every family.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range torture.Families() {
		if _, err := replaceBlock(string(text), family.Name, ""); err != nil {
			t.Error(err)
		}
	}
}
