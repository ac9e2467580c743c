package runtime

import (
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// DefaultStateDir is $XDG_STATE_HOME/sovereign, or ~/.local/state/sovereign.
func DefaultStateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sovereign"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fault.Errorf(fault.Environment, "no place for the state of machines: %w", err).
			Hintf("set XDG_STATE_HOME or HOME")
	}
	return filepath.Join(home, ".local", "state", "sovereign"), nil
}
