package main

import "testing"

func TestReplaceBlock(t *testing.T) {
	got, ok := replaceBlock("a\n"+pageBegin+"old\n"+pageEnd+"\nz\n", "new\n")
	if want := "a\n" + pageBegin + "new\n" + pageEnd + "\nz\n"; !ok || got != want {
		t.Errorf("got %q", got)
	}
	for _, page := range []string{"", pageBegin, pageEnd + pageBegin} {
		if _, ok := replaceBlock(page, "x"); ok {
			t.Errorf("%q has a block", page)
		}
	}
}
