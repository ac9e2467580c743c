package release

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func sample() *List {
	digest := "sha256:" + strings.Repeat("a", 64)
	return &List{Schema: Schema, Name: "sql", Version: "1.4", Bundles: []string{"sql-amd64", "sql-arm64"},
		Files: []File{{"NOTES.md", digest, 5}, {"packages/x86_64/libc++-19.1-r0.apk", digest, 7}, {"sql-amd64/manifest.json", digest, 9}}}
}

func TestList(t *testing.T) {
	text, err := sample().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(ListFile, text); err != nil {
		t.Fatal(err)
	}
	for change, words := range map[[2]string]string{
		{"NOTES.md", "../NOTES.md"}:                         "is not the path",
		{"NOTES.md", ".hidden"}:                             "is not the path",
		{"NOTES.md", "a//b"}:                                "is not the path",
		{"NOTES.md", "release.json"}:                        "is not the path",
		{"NOTES.md", "sql-amd64/manifest.json"}:             "not sorted",
		{"packages/x86_64/libc++-19.1-r0.apk", "NOTES.md"}:  "named twice",
		{"sql-amd64\",", "sql-arm64\","}:                    "sorted behind",
		{`"index": 0`, `"index": 3`}:                        "does not go with the key",
		{`"version": "1.4"`, `"version": "1/4"`}:            "version",
		{`"size": 5`, `"size": -5`}:                         "not a size",
		{`"name": "sql"`, `"name": "sql", "name": "other"`}: "twice",
	} {
		_, err := Parse(ListFile, bytes.Replace(text, []byte(change[0]), []byte(change[1]), 1))
		if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), words) {
			t.Errorf("%q for %q: %v", change[1], change[0], err)
		}
	}
}

func FuzzList(f *testing.F) {
	text, err := sample().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := Parse(ListFile, text)
		if err != nil {
			return
		}
		if _, err := l.Marshal(); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}
