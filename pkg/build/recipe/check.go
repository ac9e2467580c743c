package recipe

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Patterns of names. They end up in file names, kernel command lines, host
// names and apk databases, so they are narrow.
var (
	namePattern    = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`)
	packagePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._+-]{0,127}$`)
	versionPattern = regexp.MustCompile(`^[0-9][0-9a-zA-Z._~-]*$`)
	// apk's dependency: !name, name>=version, a virtual name like so:libc.so, a file.
	dependencyPattern = regexp.MustCompile(`^!?[a-zA-Z0-9/][a-zA-Z0-9._+:/-]*(\[[a-z]+\])?(@[a-zA-Z0-9][a-zA-Z0-9._-]*)?((>=|<=|[<>=~]|=~|>~|<~)[0-9a-zA-Z$][0-9a-zA-Z._~{}$-]*)?$`)
	modePattern       = regexp.MustCompile(`^[0-7]{3,4}$`)
	environPattern    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// check collects what the checks of all three files share. The first problem
// stops it.
type check struct {
	doc *document
	err error
}

// failf records the first problem, at the value with this path.
func (c *check) failf(path, format string, args ...any) {
	if c.err == nil {
		c.err = c.doc.errorf(c.doc.place(path), format, args...)
	}
}

// first says where a value stood that comes again.
func (c *check) first(path string) string {
	switch at := c.doc.place(path); {
	case at.file != "":
		return fmt.Sprintf("first in %s:%d", at.file, at.line)
	case at.line > 0:
		return fmt.Sprintf("first in line %d", at.line)
	}
	return "first as " + path
}

// place is where the value with a path stands or, where a default or a
// missing key has none, its parent.
func (d *document) place(path string) place {
	for {
		if at, ok := d.places[path]; ok {
			return at
		}
		cut := strings.LastIndexAny(path, ".[#")
		if cut < 0 {
			return d.places[""]
		}
		path = path[:cut]
	}
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

func (c *check) name(path, what, value string) {
	if !namePattern.MatchString(value) {
		c.failf(path, "%s %q is not a name: lower case letters, digits and dashes, beginning with a letter, at most 32", what, value)
	}
}

func (c *check) oneOf(path, what, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.failf(path, "unknown %s %q%s", what, value, unknown(value, allowed))
	}
}

func (c *check) notEmpty(path, value string) {
	if strings.TrimSpace(value) == "" {
		c.failf(path, "%s is empty", name(path))
	}
}

// notBlank is notEmpty for what may be left out in Go.
func (c *check) notBlank(path, value string) {
	if c.given(path) {
		c.notEmpty(path, value)
	}
}

func (c *check) between(path string, value, low, high int) {
	if value < low || value > high {
		c.failf(path, "%s is %d, allowed are %d to %d", name(path), value, low, high)
	}
}

// seconds checks an optional duration: whole seconds between 1 and high.
func (c *check) seconds(path string, d Duration, high int) {
	if d == 0 && !c.given(path) {
		return
	}
	if d.seconds() < 1 || d.seconds() > high || time.Duration(d)%time.Second != 0 {
		c.failf(path, "%s is %s, allowed are whole seconds from 1s to %s", name(path), d, Duration(time.Duration(high)*time.Second))
	}
}

func (c *check) given(path string) bool {
	_, ok := c.doc.places[path]
	return ok
}

// mebibytes checks a size that a machine wants in whole MiB.
func (c *check) mebibytes(path string, s, low Size) {
	if s < low || s%MiB != 0 {
		c.failf(path, "%s is %s, allowed is a whole number of MiB from %s", name(path), s, low)
	}
}

func (c *check) mode(path, value string) {
	if !modePattern.MatchString(value) {
		c.failf(path, "%s %q is not an octal mode like %q", name(path), value, "0644")
	}
}

// absolute checks a path inside the image.
func (c *check) absolute(where, value string) {
	switch {
	case !strings.HasPrefix(value, "/"):
		c.failf(where, "%s %q is not an absolute path", name(where), value)
	case value == "/" || path.Clean(value) != value:
		c.failf(where, "%s %q is not a clean path, without //, . and .. and a slash at the end", name(where), value)
	case strings.ContainsAny(value, "\n\r"):
		c.failf(where, "%s %q has a line break in it", name(where), value)
	}
}

func (c *check) command(path string, command []string) {
	if len(command) == 0 {
		c.failf(path, "%s is empty", name(path))
		return
	}
	c.absolute(index(path, 0), command[0])
}

func (c *check) dependencies(path string, list []string) {
	seen := map[string]int{}
	for i, d := range list {
		if !dependencyPattern.MatchString(d) {
			c.failf(index(path, i), "%q is not an apk dependency like %q or %q", d, "icu-libs", "icu-libs>=76")
		}
		if first, ok := seen[d]; ok {
			c.failf(index(path, i), "%q is listed twice, %s", d, c.first(index(path, first)))
		}
		seen[d] = i
	}
}

// unique fails when a value was seen before under another path.
func unique[K comparable](c *check, seen map[K]string, path, what string, value K) {
	if first, ok := seen[value]; ok {
		c.failf(path, "%s %v is used twice, %s", what, quoted(value), c.first(first))
		return
	}
	seen[value] = path
}

func quoted(v any) any {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return v
}
