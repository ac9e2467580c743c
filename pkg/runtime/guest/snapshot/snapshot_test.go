package snapshot

import "testing"

func TestParseStore(t *testing.T) {
	for text, want := range map[string]Store{
		"48/4194304 16": {Used: 48 * 512, Size: 4194304 * 512},
		"Invalid":       {Invalid: "its store was full, or failed"},
		"Overflow":      {Invalid: "its store was full, or failed"},
	} {
		if got, err := parseStore(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "12", "a/b 1", "-1/2 3", "1/", "9999999999999999999/1 2", "Merge failed"} {
		if got, err := parseStore(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
