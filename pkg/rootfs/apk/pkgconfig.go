package apk

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// maxPkgConfig is the largest .pc file read, in bytes.
const maxPkgConfig = 1 << 20

// readPkgConfig returns the version of a .pc file and what it requires, in
// apk's notation, private requirements too (they are needed to compile).
// A version that apk cannot compare becomes "0".
func readPkgConfig(e rootfs.Entry) (version string, requires []string, err error) {
	if e.Size > maxPkgConfig {
		return "", nil, fmt.Errorf("%s: %d bytes is too much for a pkg-config file", e.Path, e.Size)
	}
	var b bytes.Buffer
	if err := e.CopyTo(&b); err != nil {
		return "", nil, err
	}
	vars, fields := map[string]string{}, map[string]string{}
	text := strings.ReplaceAll(b.String(), "\\\n", " ")
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		i := strings.IndexAny(line, ":=")
		if i < 0 {
			continue
		}
		key, value := strings.TrimSpace(line[:i]), expand(strings.TrimSpace(line[i+1:]), vars)
		if line[i] == '=' {
			vars[key] = value
		} else {
			fields[key] = value
		}
	}
	version = fields["Version"]
	if !ValidVersion(version) {
		version = "0"
	}
	for _, key := range [...]string{"Requires", "Requires.private"} {
		words := strings.FieldsFunc(spaced(fields[key]), func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
		for i := 0; i < len(words); i++ {
			need := words[i]
			if i+2 < len(words) && isOperator(words[i+1]) {
				if op := words[i+1]; op != "!=" && ValidVersion(words[i+2]) {
					need += op + words[i+2]
				}
				i += 2
			}
			if _, err := ParseDependency(need); err == nil && !slices.Contains(requires, need) {
				requires = append(requires, need)
			}
		}
	}
	return version, requires, nil
}

// spaced puts spaces around the operators of a Requires line.
func spaced(s string) string {
	return regexp.MustCompile(`[<>=!]+`).ReplaceAllString(s, " $0 ")
}

func isOperator(s string) bool { return strings.Trim(s, "<>=!") == "" }

// expand replaces ${name} by what was set before; unknown ones become empty.
func expand(s string, vars map[string]string) string {
	return regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllStringFunc(s, func(v string) string { return vars[v[2:len(v)-1]] })
}
