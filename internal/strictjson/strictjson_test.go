package strictjson

import (
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

type thing struct {
	Name  string  `json:"name"`
	Count int     `json:"count"`
	On    bool    `json:"on,omitempty"`
	Parts []thing `json:"parts,omitempty"`
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`{"name": "a", "count": 1, "on": true, "parts": [{"name": "b", "count": -2}]}`, ""},
		{``, "f:1:1: the file ends in the middle"},
		{`{"name": "a"`, "f:1:13: the file ends in the middle"},
		{`{"name": "a"}`, `f:1:1: the thing lacks the key "count"`},
		{"{\"name\": \"a\",\n \"colour\": 1}", `f:2:2: unknown key "colour" in the thing`},
		{`{"Name": "a"}`, `unknown key "Name"`},
		{`{"name": "a", "name": "b"}`, `key "name" is given twice`},
		{`{"name": 1}`, "f:1:10: name is a number, want a string"},
		{`{"count": "1"}`, "count is a string, want a whole number"},
		{`{"count": 1.5}`, "count: 1.5 is not a whole number in range"},
		{`{"count": 99999999999999999999}`, "not a whole number in range"},
		{`{"on": null}`, "on is null, want true or false"},
		{`{"parts": {}}`, "parts is an object, want an array"},
		{`{"parts": [{"name": "b", "count": []}]}`, "parts[0].count is an array, want a whole number"},
		{`{"name": "a", "count": 1} x`, "f:1:27: something follows the thing's closing brace"},
		{strings.Repeat(`{"parts": [`, 40), "nested more than 32 deep"},
	} {
		var v thing
		_, err := Decode(File{Name: "f", Data: []byte(tt.text), What: "thing", Hint: "mend it"}, &v)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.text, err)
		case tt.want == "":
			if v.Name != "a" || !v.On || len(v.Parts) != 1 || v.Parts[0].Count != -2 {
				t.Errorf("%+v", v)
			}
		case err == nil || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v, want %q", tt.text, err, tt.want)
		case fault.ClassOf(err) != fault.Usage || fault.HintOf(err) != "mend it":
			t.Errorf("%s: class %d, hint %q", tt.text, fault.ClassOf(err), fault.HintOf(err))
		}
	}
}

func TestErrorf(t *testing.T) {
	var v thing
	d, err := Decode(File{Name: "f", Data: []byte("{\"name\": \"a\", \"count\": 1,\n\"parts\": [{\"name\": \"b\", \"count\": 2}]}"), What: "thing"}, &v)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"count":         "f:1:24: count: wrong",
		"parts[0].name": "f:2:20: parts[0].name: wrong",
		"parts[0].on":   "f:2:11: parts[0].on: wrong", // absent: where its object is
		"on":            "f:1:1: on: wrong",
	} {
		if got := d.Errorf(path, "wrong").Error(); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
