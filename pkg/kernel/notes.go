package kernel

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Notes is what a kernel step says about symbols that did not make it into the
// .config. The zero value says nothing.
type Notes struct {
	// Unknown are symbols no Kconfig file has, without CONFIG_.
	Unknown []string
	// Depends has, for a symbol, a text for each of its entries in Kconfig:
	// the place and what it depends on there. Blocks in other files that
	// include that one are not part of it.
	Depends map[string][]string
}

// ParseNotes reads NotesFile: lines "unknown SYMBOL" and
// "depends SYMBOL KCONFIG:LINE EXPRESSION".
func ParseNotes(r io.Reader) (Notes, error) {
	n := Notes{Depends: map[string][]string{}}
	lines := bufio.NewScanner(io.LimitReader(r, MaxSize))
	for number := 1; lines.Scan(); number++ {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		symbol, rest, _ := strings.Cut(rest, " ")
		if !validSymbol(symbol) {
			return Notes{}, fmt.Errorf("%s:%d: %.60q names no symbol", NotesFile, number, lines.Text())
		}
		switch word {
		case "unknown":
			n.Unknown = append(n.Unknown, symbol)
		case "depends":
			at, expr, _ := strings.Cut(rest, " ")
			n.Depends[symbol] = append(n.Depends[symbol], at+": "+expr)
		default:
			return Notes{}, fmt.Errorf("%s:%d: %.60q is neither unknown nor depends", NotesFile, number, word)
		}
	}
	if err := lines.Err(); err != nil {
		return Notes{}, fmt.Errorf("%s: %w", NotesFile, err)
	}
	return n, nil
}
