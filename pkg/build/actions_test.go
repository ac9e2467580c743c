package build

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

func TestScriptActions(t *testing.T) {
	got, err := scriptActions([]recipe.Action{
		{Package: "demo", Script: "post-install", Digest: "sha256:0a", Steps: []recipe.Step{
			{Group: &recipe.GroupStep{Name: "demo", GID: 70}},
			{User: &recipe.UserStep{Name: "demo", UID: 70, GID: 71, Comment: "c", Home: "/h", Shell: "/s"}},
			{Member: &recipe.MemberStep{User: "demo", Group: "web"}},
			{Directory: &recipe.DirectoryStep{Path: "/d", Mode: "3770", UID: 70, GID: 71}},
			{Directory: &recipe.DirectoryStep{Path: "/e"}},
			{Link: &recipe.LinkStep{Path: "/l", Target: "t"}},
			{File: &recipe.FileStep{Path: "/f", Content: "x", Mode: "4755"}},
			{File: &recipe.FileStep{Path: "/g"}},
			{Applets: &recipe.AppletsStep{List: "/a", Target: "/b"}},
		}},
		{Package: "demo", Script: "trigger", Digest: "sha256:0b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []apk.Action{
		{Package: "demo", Kind: "post-install", Digest: "0a", Steps: []apk.Step{
			apk.AddGroup{Name: "demo", GID: 70},
			apk.AddUser{Name: "demo", UID: 70, GID: 71, Gecos: "c", Home: "/h", Shell: "/s"},
			apk.AddMember{User: "demo", Group: "web"},
			apk.MakeDir{Path: "/d", Mode: rootfs.ModeFromUnix(0o103770), UID: 70, GID: 71},
			apk.MakeDir{Path: "/e", Mode: 0o755},
			apk.MakeLink{Path: "/l", Target: "t"},
			apk.MakeFile{Path: "/f", Mode: rootfs.ModeFromUnix(0o104755), Data: []byte("x")},
			apk.MakeFile{Path: "/g", Mode: 0o644, Data: []byte{}},
			apk.Applets{List: "/a", Target: "/b"},
		}},
		{Package: "demo", Kind: "trigger", Digest: "0b"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
