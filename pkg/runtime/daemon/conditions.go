package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/backup"
)

// conditioned is a Guard that knows of its host's power and network.
type conditioned interface {
	Charges() (bool, error)
	Unmetered(ctx context.Context) (bool, error)
}

// lacks says which of the conditions this host does not fulfil now; "" where it
// fulfils all. One that cannot be found out is lacking: what is overdue is done
// all the same.
func (d *daemon) lacks(ctx context.Context, when []backup.Condition) string {
	var list []string
	for _, c := range when {
		ok, err := d.is(ctx, c)
		switch {
		case err != nil:
			list = append(list, string(c)+" ("+err.Error()+")")
		case !ok:
			list = append(list, string(c))
		}
	}
	return strings.Join(list, ", ")
}

func (d *daemon) is(ctx context.Context, c backup.Condition) (bool, error) {
	g, phone := d.o.Guard.(conditioned)
	switch {
	case c == backup.Charging && phone:
		return g.Charges()
	case c == backup.Charging:
		return charges("/sys/class/power_supply")
	case phone:
		return g.Unmetered(ctx)
	}
	return true, nil
}

// charges says whether no battery below a directory of the kernel's gets emptier.
func charges(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	for _, e := range entries {
		kind, kindErr := os.ReadFile(filepath.Join(dir, e.Name(), "type"))
		scope, scopeErr := os.ReadFile(filepath.Join(dir, e.Name(), "scope"))
		if kindErr != nil || strings.TrimSpace(string(kind)) != "Battery" || scopeErr == nil && strings.TrimSpace(string(scope)) == "Device" {
			continue // a mouse's is none of the host's
		}
		state, err := os.ReadFile(filepath.Join(dir, e.Name(), "status"))
		if err != nil {
			return false, err
		}
		if strings.TrimSpace(string(state)) == "Discharging" {
			return false, nil
		}
	}
	return err == nil, err
}
