package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/torture"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// updatePage replaces the blocks of the families that ran to their end, each
// between its own markers: a whole run takes hours, and one family may be run
// again by itself.
func updatePage(path string, rep *torture.Report) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return fault.Wrap(fault.Usage, err)
	}
	page := string(old)
	for _, ran := range rep.Ran {
		if page, err = replaceBlock(page, ran.Family, rep.Markdown(ran)); err != nil {
			return fault.Errorf(fault.Usage, "%s: %w", path, err)
		}
	}
	return atomicfile.Write(path, []byte(page), 0o644)
}

func replaceBlock(page, family, text string) (string, error) {
	begin, end := fmt.Sprintf("<!-- torture: %s begin -->\n", family), fmt.Sprintf("<!-- torture: %s end -->", family)
	before, rest, ok := strings.Cut(page, begin)
	_, after, ends := strings.Cut(rest, end)
	if !ok || !ends {
		return "", fmt.Errorf("no block between %q and %q", strings.TrimSpace(begin), end)
	}
	return before + begin + text + end + after, nil
}
