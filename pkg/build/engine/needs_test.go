package engine

import (
	"errors"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestNeeds(t *testing.T) {
	nothing := func(o *options) error {
		o.host.look = func(string) (string, error) { return "", errors.New("not found") }
		o.host.uid, o.host.root = 1000, t.TempDir()
		return nil
	}
	needs, err := Needs(nothing, WithStateDir(t.TempDir()), WithBuildkitd("/nowhere/buildkitd"))
	if err != nil || len(needs) != 3 {
		t.Fatalf("%+v, %v", needs, err)
	}
	for _, n := range needs {
		if n.Path != "" || fault.ClassOf(n.Err) != fault.Environment || fault.HintOf(n.Err) == "" {
			t.Errorf("%+v", n)
		}
	}
	everything := func(o *options) error {
		o.host.look = func(name string) (string, error) { return "/usr/bin/" + name, nil }
		o.host.uid = 0
		return nil
	}
	needs, err = Needs(everything, WithStateDir(t.TempDir()))
	if err != nil || len(needs) != 2 || needs[0].Err != nil || needs[1].Path != "/usr/bin/buildkit-runc" {
		t.Errorf("%+v, %v", needs, err)
	}
	if needs, err := Needs(nothing, WithAddress("unix:///run/buildkit.sock"), WithStateDir(t.TempDir())); err != nil || needs != nil {
		t.Errorf("an engine elsewhere: %+v, %v", needs, err)
	}
}
