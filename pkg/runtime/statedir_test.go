package runtime

import (
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestDefaultStateDir(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/x")
	if d, err := DefaultStateDir(); err != nil || d != "/x/sovereign" {
		t.Error(d, err)
	}
	t.Setenv("XDG_STATE_HOME", "relative")
	t.Setenv("HOME", "/h")
	if d, err := DefaultStateDir(); err != nil || d != "/h/.local/state/sovereign" {
		t.Error(d, err)
	}
	t.Setenv("HOME", "")
	if _, err := DefaultStateDir(); fault.ClassOf(err) != fault.Environment {
		t.Error(err)
	}
}
