package recipe

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

var testDigest = "sha256:" + strings.Repeat("0a", 32)

var goodActions = `actions:
  - package: demo
    script: post-install
    digest: ` + testDigest + `
    steps:
      - group: {name: demo, gid: 70}
      - user: {name: demo, uid: 70, gid: 70, comment: A demo, home: /var/lib/demo, shell: /bin/sh}
      - member: {user: demo, group: web}
      - directory: {path: /var/lib/demo, mode: "1770", uid: 70, gid: 71}
      - link: {path: /usr/bin/d, target: demo}
      - file: {path: /etc/demo, content: "x", mode: "0600"}
      - applets: {list: /etc/demo.list, target: /usr/bin/demo}
  - package: demo
    script: trigger
    digest: ` + testDigest + `
`

// withActions is the good recipe with these lines after it, and how many come
// before them.
func withActions(t *testing.T, actions string) ([]byte, int) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(good, FileName))
	if err != nil {
		t.Fatal(err)
	}
	return append(data, actions...), strings.Count(string(data), "\n")
}

func TestActions(t *testing.T) {
	data, _ := withActions(t, goodActions)
	r, _, err := parseRecipe(Ref{Name: FileName}, data)
	if err != nil {
		t.Fatal(err)
	}
	want := []Action{
		{Package: "demo", Script: "post-install", Digest: testDigest, Steps: []Step{
			{Group: &GroupStep{"demo", 70}},
			{User: &UserStep{"demo", 70, 70, "A demo", "/var/lib/demo", "/bin/sh"}},
			{Member: &MemberStep{"demo", "web"}},
			{Directory: &DirectoryStep{"/var/lib/demo", "1770", 70, 71}},
			{Link: &LinkStep{"/usr/bin/d", "demo"}},
			{File: &FileStep{"/etc/demo", "x", "0600"}},
			{Applets: &AppletsStep{"/etc/demo.list", "/usr/bin/demo"}},
		}},
		{Package: "demo", Script: "trigger", Digest: testDigest},
	}
	if d := cmp.Diff(want, r.Actions); d != "" {
		t.Error(d)
	}
}

// Lines in the wanted messages count from the line of "actions:".
func TestBadActions(t *testing.T) {
	for _, test := range []struct {
		name, old, new string
		line           int
		want           string
	}{
		{"package", "- package: demo\n    script: post", "- package: de mo\n    script: post", 2, `14: "de mo" is not a package's name`},
		{"no package", "package: demo\n    script: post", "script: post", 2, `5: key "package" is missing in actions[0]`},
		{"script", "post-install", "post-upgrade", 3, `13: unknown script "post-upgrade", known are post-install, pre-install, trigger`},
		{"digest", testDigest, "sha256:12", 4, `13: digest "sha256:12" is not sha256: and 64 digits of lower case hex`},
		{"digest of another kind", testDigest, "md5:12", 4, `13: digest "md5:12" is not sha256:`},
		{"twice", "script: trigger", "script: post-install", 13, `14: action for "demo post-install ` + testDigest + `" is used twice`},
		{"two kinds", "- group: {name: demo, gid: 70}", "- group: {name: demo, gid: 70}\n        link: {path: /a, target: b}", 6, `9: the step has group and link, exactly one of`},
		{"no kind", "- group: {name: demo, gid: 70}", "- {}", 6, `9: the step has none of its kinds`},
		{"unknown kind", "- group:", "- gruop:", 6, `9: unknown key "gruop", did you mean "group"?`},
		{"group", "gid: 70}\n      - user", "gid: 0}\n      - user", 6, `34: actions[0].steps[0].group.gid is 0, allowed are 1 to 2147483647`},
		{"user", "user: {name: demo", `user: {name: "a:b"`, 7, `22: "a:b" is not a name`},
		{"home", "home: /var/lib/demo", `home: "a:b"`, 7, `69: home "a:b" has a colon or a line break`},
		{"member", "group: web}", `group: ""}`, 8, `37: "" is not a name`},
		{"directory", "path: /var/lib/demo, mode", "path: var/lib, mode", 9, `27: actions[0].steps[3].directory.path "var/lib" is not an absolute path`},
		{"mode", `"1770"`, `"1778"`, 9, `48: actions[0].steps[3].directory.mode "1778" is not an octal mode`},
		{"link", "target: demo}", `target: ""}`, 10, `42: actions[0].steps[4].link.target is empty`},
		{"file", `content: "x", `, "", 11, `15: key "content" is missing in actions[0].steps[5].file`},
		{"applets", "target: /usr/bin/demo", "target: demo", 12, `49: actions[0].steps[6].applets.target "demo" is not an absolute path`},
	} {
		t.Run(test.name, func(t *testing.T) {
			actions := strings.Replace(goodActions, test.old, test.new, 1)
			if actions == goodActions {
				t.Fatalf("%q is not in the recipe", test.old)
			}
			data, before := withActions(t, actions)
			want := fmt.Sprintf("%s:%d:%s", FileName, before+test.line, test.want)
			if _, _, err := parseRecipe(Ref{Name: FileName}, data); err == nil || !strings.HasPrefix(err.Error(), want) || fault.ClassOf(err) != fault.Usage {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}
