package continuity

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func after(r *Record, n int) *Record {
	for range n {
		r = r.Next("written", now)
	}
	return r
}

func TestDecide(t *testing.T) {
	base := after(Begin("boot", now), 3)
	other := after(Begin("boot", now), 9)
	seen := func(r *Record) *Witness { w := r.Witness(); return &w }
	accepted, err := Accept(base, *seen(after(base, 5)), "a copy of Monday was all there was", now)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := Accept(nil, *seen(base), "the disk is gone", now)
	if err != nil {
		t.Fatal(err)
	}
	adopted, err := Accept(other, *seen(base), "it is the other one now", now)
	if err != nil {
		t.Fatal(err)
	}
	late := after(base, 5)
	for name, c := range map[string]struct {
		disk    *Record
		witness *Witness
		want    Verdict
		held    bool
	}{
		"new machine":                           {nil, nil, First, false},
		"lost disk":                             {nil, seen(base), Blank, true},
		"lost witness":                          {base, nil, Unwitnessed, false},
		"as it was":                             {base, seen(base), Equal, false},
		"power cut between store and witness":   {after(base, 1), seen(base), Ahead, false},
		"witness away for long":                 {after(base, maxChain), seen(base), Ahead, false},
		"witness away for too long":             {after(base, maxChain+1), seen(base), Forked, true},
		"another machine's":                     {other, seen(base), Foreign, true},
		"a copy put back":                       {base, seen(after(base, 1)), Behind, true},
		"a copy put back, of the first moment":  {Begin("boot", now), seen(base), Foreign, true},
		"a copy that was written on":            {after(base, 7), seen(after(base, 3)), Forked, true},
		"a copy written on to the same epoch":   {after(base, 3), seen(after(base, 3)), Forked, true},
		"accepted":                              {accepted, seen(late), Forked, true}, // another late history than the one that was given up
		"accepted, the power cut before it was": {fresh, seen(base), Ahead, false},
		"accepted, another machine's":           {adopted, seen(base), Ahead, false},
		"back before what was accepted":         {base, seen(accepted), Behind, true},
	} {
		if got := Decide(c.disk, c.witness); got != c.want || got.Held() != c.held {
			t.Errorf("%s: %s, held %v; want %s, %v", name, got, got.Held(), c.want, c.held)
		}
	}
	given := after(base, 5)
	accepted, err = Accept(base, *seen(given), "yes", now)
	if err != nil || Decide(accepted, seen(given)) != Ahead || accepted.Epoch != given.Epoch+Leap {
		t.Errorf("what was given up: %v, %+v", err, accepted)
	}
	for _, reason := range []string{"", strings.Repeat("x", maxReason+1)} {
		if _, err := Accept(base, *seen(base), reason, now); err == nil {
			t.Errorf("a reason of %d bytes", len(reason))
		}
	}
	if !Unreadable.Held() {
		t.Error("what cannot be read is not held")
	}
}

// TestHistories plays 2,000 lives of a disk and its witness with power cuts in
// every place, which must alarm nobody, and puts an earlier copy back in each
// tenth, which must be found.
func TestHistories(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	planted := 0
	for life := range 2000 {
		var disk *Record
		var witness *Witness
		var copies []*Record
		for range 40 {
			if v := Decide(disk, witness); v.Held() {
				t.Fatalf("life %d: a false alarm: %s", life, v)
			}
			switch {
			case disk == nil:
				disk = Begin("boot", now)
			default:
				disk = disk.Next("boot", now) // the store
			}
			copies = append(copies, disk)
			if random.IntN(4) > 0 { // else a power cut between store and witness
				w := disk.Witness()
				witness = &w
			}
		}
		if life%10 > 0 || witness == nil {
			continue
		}
		old := copies[random.IntN(len(copies))]
		if old.Epoch >= witness.Epoch {
			continue
		}
		planted++
		if v := Decide(old, witness); v != Behind {
			t.Fatalf("life %d: epoch %d put back before %d: %s", life, old.Epoch, witness.Epoch, v)
		}
		if old.Next("boot", now).Epoch >= witness.Epoch {
			if v := Decide(old.Next("boot", now), witness); v != Forked {
				t.Fatalf("life %d: written on: %s", life, v)
			}
		}
	}
	if planted < 150 {
		t.Fatalf("%d rollbacks planted", planted)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	if r, err := Load(dir); r != nil || err != nil {
		t.Fatalf("no record: %v, %v", r, err)
	}
	want := after(Begin("boot", now), maxChain+10)
	if err := want.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil || got.Point != want.Point || len(got.Before) != maxChain || Decide(got, &Witness{want.Lineage, want.Before[0]}) != Ahead {
		t.Fatalf("%+v, %v", got, err)
	}
	path := filepath.Join(dir, dirName, fileName)
	b, err := os.ReadFile(path)
	if err != nil || len(b) > maxFile/4 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	for name, change := range map[string]func(string) string{
		"hash":    func(s string) string { return strings.Replace(s, `"epoch":267`, `"epoch":268`, 1) },
		"unknown": func(s string) string { return strings.Replace(s, `"nonce"`, `"x":1,"nonce"`, 1) },
		"EOF":     func(s string) string { return s[:len(s)/2] },
		"digits":  func(s string) string { return strings.Replace(s, want.Lineage, "x", 1) },
	} {
		if err := os.WriteFile(path, []byte(change(string(b))), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := Load(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

func TestParseWitness(t *testing.T) {
	w := after(Begin("boot", now), 4).Witness()
	if got, err := ParseWitness(w.String()); err != nil || got != w {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "a:1:b", w.Lineage + ":-1:" + w.Hash, w.Lineage + ":1:" + w.Hash + ":x", strings.ToUpper(w.String())} {
		if got, err := ParseWitness(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzRecord(f *testing.F) {
	b, err := json.Marshal(after(Begin("boot", now), 2))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parse(b)
		if err != nil {
			return
		}
		w := r.Witness()
		if v := Decide(r, &w); v != Equal {
			t.Fatalf("a record and its own witness: %s", v)
		}
	})
}
