package torture

import "testing"

// TestCopiedRows holds copies to what was acknowledged before them.
func TestCopiedRows(t *testing.T) {
	s := series{1, 2}
	before := map[series][]fate{s: {acked, sent, absent}}
	after := map[series][]fate{s: {acked, acked, absent, sent}}
	rows := func(seqs ...int) (list []row) {
		for _, n := range seqs {
			list = append(list, row{s, n, true})
		}
		return list
	}
	for name, c := range map[string]struct {
		rows []row
		ok   bool
	}{
		"all":                      {rows(1, 2, 4), true},
		"only what was before":     {rows(1), true},
		"one is lost":              {rows(2, 4), false},
		"one was never sent":       {rows(1, 5), false},
		"one was found absent":     {rows(1, 3), false},
		"one is there twice":       {rows(1, 1), false},
		"one is not whole":         {[]row{{s, 1, false}}, false},
		"another series' is there": {append(rows(1), row{series{9, 9}, 1, true}), false},
	} {
		if err := copiedRows(before, after, c.rows); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
