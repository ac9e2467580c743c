package torture

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCommitLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := newCommitLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, b := series{1, 1}, series{2, 3}
	for _, s := range []series{a, a, a, b} {
		if _, err := l.begin(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{l.acked(a, 1), l.settle(a, 2, present), l.settle(a, 3, absent), l.acked(b, 1)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if l.count() != 2 {
		t.Errorf("count: %d", l.count())
	}
	for name, err := range map[string]error{"twice": l.acked(a, 1), "after the end": l.acked(a, 9), "unsent": l.settle(a, 0, absent)} {
		if err == nil {
			t.Errorf("an answer %s was taken", name)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Refused changes stand in the file too, and make it unreadable: nothing
	// is verified against a record that does not hold together.
	if _, err := readCommitLog(bytes.NewReader(text)); err == nil {
		t.Error("a record with a second answer was read")
	}
	good := "S 1 1 1\nS 1 1 2\nS 1 1 3\nS 2 3 1\nA 1 1 1\nP 1 1 2\nN 1 1 3\nA 2 3 1\n"
	if !strings.HasPrefix(string(text), good) {
		t.Fatalf("the record is\n%s", text)
	}
	fates, err := readCommitLog(strings.NewReader(good + "S 9 9"))
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(fates, l.fates, slices.Equal) {
		t.Errorf("read %v, want %v", fates, l.fates)
	}
}

func FuzzReadCommitLog(f *testing.F) {
	f.Add("S 1 1 1\nA 1 1 1\nS 1 1 2\nN 1 1 2\n")
	f.Add("S 1 1 2\n")
	f.Add("X\n" + strings.Repeat("9", 200))
	f.Fuzz(func(t *testing.T, text string) {
		fates, err := readCommitLog(strings.NewReader(text))
		if err != nil {
			return
		}
		rows := 0
		for _, all := range fates {
			rows += len(all)
		}
		if rows > strings.Count(text, "S") {
			t.Errorf("%d rows of %d lines", rows, strings.Count(text, "S"))
		}
	})
}

func TestJudge(t *testing.T) {
	s := series{4, 2}
	all := []fate{acked, sent, sent, present, absent}
	rows := func(seqs ...int) []row {
		var out []row
		for _, n := range seqs {
			out = append(out, row{s, n, true})
		}
		return out
	}
	for name, c := range map[string]struct {
		rows    []row
		problem string // "" for none
	}{
		"well":                     {rows(1, 2, 4), ""},
		"an acknowledged row lost": {rows(2, 4), "1 rows acknowledged and lost: round 4, writer 2, row 1"},
		"a row seen before lost":   {rows(1, 2), "acknowledged and lost: round 4, writer 2, row 4"},
		"a row twice":              {rows(1, 1, 1, 4), "1 rows there twice"},
		"a row never sent":         {rows(1, 4, 6), "there and never sent: round 4, writer 2, row 6"},
		"row nought":               {rows(0, 1, 4), "never sent"},
		"a row that was gone":      {rows(1, 4, 5), "never sent: round 4, writer 2, row 5"},
		"another series":           {append(rows(1, 4), row{series{9, 9}, 1, true}), "never sent"},
		"a torn row":               {append(rows(4), row{s, 1, false}), "not whole"},
	} {
		f, settled := judge(map[series][]fate{s: all}, c.rows)
		got := strings.Join(f.Problems, "; ")
		if c.problem == "" && got != "" || !strings.Contains(got, c.problem) {
			t.Errorf("%s: %q, want %q", name, got, c.problem)
		}
		if len(settled) != 2 || f.Doubt != 2 || f.Rows != len(c.rows) {
			t.Errorf("%s: settled %v, findings %+v", name, settled, f)
		}
		want := absent
		if slices.Contains(c.rows, row{s, 2, true}) {
			want = present
		}
		if got := settled[row{series: s, Seq: 2}]; got != want {
			t.Errorf("%s: row 2 in doubt became %d, want %d", name, got, want)
		}
	}
}

func TestJudgeNamesFew(t *testing.T) {
	s := series{1, 1}
	f, _ := judge(map[series][]fate{s: slices.Repeat([]fate{acked}, 1000)}, nil)
	if len(f.Problems) != 1 || len(f.Problems[0]) > 400 || !strings.HasPrefix(f.Problems[0], "1000 rows") {
		t.Errorf("problems: %q", f.Problems)
	}
}
