package kconfig

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// elsewhere finds entries of a symbol in the Kconfig files of other
// architectures. A file that cannot be read has none: this only makes a message
// better.
func (t *Tree) elsewhere(name string) []Pos {
	re, err := regexp.Compile(`(?m)^(?:menu)?config[ \t]+` + regexp.QuoteMeta(name) + `[ \t]*$`)
	if err != nil {
		return nil
	}
	var out []Pos
	for _, file := range archFiles(t.source) {
		text, err := fs.ReadFile(t.source, file)
		if err != nil || len(text) > maxFileSize {
			continue
		}
		if at := re.FindIndex(text); at != nil {
			out = append(out, Pos{file, 1 + strings.Count(string(text[:at[0]]), "\n")})
		}
	}
	return out
}

// archFiles are the Kconfig files below arch/, sorted.
func archFiles(source fs.FS) []string {
	var out []string
	add := func(name string) {
		if strings.HasPrefix(name, "arch/") && strings.HasPrefix(path.Base(name), "Kconfig") && len(out) < maxFiles {
			out = append(out, name)
		}
	}
	if files, ok := source.(Files); ok {
		for name := range files {
			add(name)
		}
		slices.Sort(out)
		return out
	}
	err := fs.WalkDir(source, "arch", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		add(name)
		return nil
	})
	if err != nil {
		return nil
	}
	return out
}

// nearest is the defined symbol whose name is most like another, at most two
// edits away; "" if none is.
func (t *Tree) nearest(name string) string {
	best, distance := "", 3
	for _, s := range t.Symbols() {
		if d := edits(name, s.Name, distance+1); d < distance || d == distance && d < 3 && s.Name < best {
			best, distance = s.Name, d
		}
	}
	return best
}

// edits counts the letters to insert, remove or change, up to a limit.
func edits(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > 256 {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := corner
			if a[i] != b[j] {
				d = 1 + min(corner, row[j], row[j+1])
			}
			corner, row[j+1] = row[j+1], d
		}
	}
	return min(row[len(b)], limit)
}
