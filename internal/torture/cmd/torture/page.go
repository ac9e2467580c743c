package main

import (
	"os"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	pageBegin = "<!-- torture: begin -->\n"
	pageEnd   = "<!-- torture: end -->"
)

// updatePage replaces what stands between the markers of a page.
func updatePage(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return fault.Wrap(fault.Usage, err)
	}
	now, ok := replaceBlock(string(old), text)
	if !ok {
		return fault.Errorf(fault.Usage, "%s: no block between %q and %q", path, strings.TrimSpace(pageBegin), pageEnd)
	}
	return disk.Replace(path, func(f *os.File) error {
		_, err := f.WriteString(now)
		return err
	})
}

func replaceBlock(page, text string) (string, bool) {
	before, rest, ok := strings.Cut(page, pageBegin)
	_, after, ends := strings.Cut(rest, pageEnd)
	if !ok || !ends {
		return "", false
	}
	return before + pageBegin + text + pageEnd + after, true
}
