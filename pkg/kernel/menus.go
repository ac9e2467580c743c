package kernel

import (
	"slices"
	"strings"
)

// menus follows the menus of a .config. Kconfig writes
//
//	#
//	# Title
//	#
//
// for a menu and for a comment alike, and "# end of Title" after a menu only.
// Comments are left out: nothing says where they end.
type menus struct {
	titles []string // by line, from 0: the menu that begins there, or ""
	stack  []string
}

// maxMenus is the depth of menus that is kept; Linux has seven.
const maxMenus = 32

// plan finds the headings that have an end.
func (m *menus) plan(lines [][]byte) {
	m.titles = make([]string, len(lines))
	text := func(i int) string { return strings.TrimRight(string(lines[i]), "\r\n") }
	open := map[string][]int{} // title to the lines of its headings
	for i := range lines {
		t := text(i)
		if title, ok := strings.CutPrefix(t, "# end of "); ok {
			if at := open[title]; len(at) > 0 {
				m.titles[at[len(at)-1]] = title
				open[title] = at[:len(at)-1]
			}
			continue
		}
		if i == 0 || i+1 == len(lines) || text(i-1) != "#" || text(i+1) != "#" {
			continue
		}
		if title, ok := strings.CutPrefix(t, "# "); ok {
			open[title] = append(open[title], i)
		}
	}
}

// line moves to the line of that number, from 1.
func (m *menus) line(number int, text string) {
	if title := m.titles[number-1]; title != "" {
		if len(m.stack) < maxMenus {
			m.stack = append(m.stack, title)
		}
		return
	}
	if title, ok := strings.CutPrefix(text, "# end of "); ok {
		if i := slices.Index(m.stack, title); i >= 0 {
			m.stack = m.stack[:i]
		}
	}
}

// path is where the reader is: "General setup > Timers subsystem".
func (m *menus) path() string { return strings.Join(m.stack, " > ") }
