package android

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// wakeName is the one name of this program's wake lock: a lock stays until it is
// taken away by its name, or the phone boots.
const wakeName = "sovereign"

// wake holds the lock, or lets it go. What is so already stays.
func (r root) wake(hold bool) error {
	file := "/sys/power/wake_unlock"
	if hold {
		file = "/sys/power/wake_lock"
	}
	f, err := os.OpenFile(r.path(file), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(wakeName)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fault.Errorf(fault.Environment, "the wake lock: %w", err)
	}
	return nil
}

// awake says whether it is held, as the kernel has it.
func (r root) awake() bool {
	text, err := os.ReadFile(r.path("/sys/power/wake_lock"))
	return err == nil && slices.Contains(strings.Fields(string(text)), wakeName)
}

// draining says whether a battery gets emptier.
func draining(b *runtime.PhoneBattery) bool { return b != nil && b.State == "Discharging" }

// battery reads it; nil where there is none, as in a board.
func (r root) battery() (*runtime.PhoneBattery, error) {
	dir := "/sys/class/power_supply/battery/"
	read := func(name string) (string, error) {
		b, err := os.ReadFile(r.path(dir + name))
		return strings.TrimSpace(string(b)), err
	}
	text, err := read("capacity")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	b := &runtime.PhoneBattery{}
	if b.Percent, err = strconv.Atoi(text); err != nil || b.Percent < 0 || b.Percent > 100 {
		return nil, fault.Errorf(fault.Environment, "%scapacity is %.20q", dir, text)
	}
	if b.State, err = read("status"); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	// In tenths, where the driver has it.
	if text, err := read("temp"); err == nil {
		if n, err := strconv.Atoi(text); err == nil {
			b.Celsius = float64(n) / 10
		}
	}
	b.Health, _ = read("health")
	return b, nil
}

// heat is the hottest zone, of those with a plausible figure: the names are each
// maker's own, and some zones are switched off and say nonsense. nil for none.
func (r root) heat() *runtime.PhoneHeat {
	zones, err := filepath.Glob(r.path("/sys/class/thermal/thermal_zone*"))
	if err != nil {
		return nil
	}
	var most *runtime.PhoneHeat
	for _, zone := range zones {
		text, err := os.ReadFile(zone + "/temp")
		if err != nil {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			continue
		}
		c := float64(n) / 1000
		if c < -30 || c > 150 || most != nil && c <= most.Celsius {
			continue
		}
		name, err := os.ReadFile(zone + "/type")
		if err != nil {
			continue
		}
		most = &runtime.PhoneHeat{Zone: strings.TrimSpace(string(name)), Celsius: c}
	}
	return most
}

// Machines are let up again when it is better by this much, so that they do not
// go up and down.
const (
	betterPercent = 5
	betterCelsius = 3
)

// reached says why machines may not run, "" where they may. held is that they
// may not since before.
func reached(f runtime.PhoneFloor, b *runtime.PhoneBattery, held bool) string {
	if b == nil {
		return ""
	}
	percent, celsius := f.Battery, float64(f.Celsius)
	if held {
		percent, celsius = percent+betterPercent, celsius-betterCelsius
	}
	switch {
	case f.Battery > 0 && draining(b) && b.Percent < percent:
		return fmt.Sprintf("the battery is at %d %%, and the floor is %d %%", b.Percent, f.Battery)
	case f.Celsius > 0 && b.Celsius > celsius:
		return fmt.Sprintf("the battery is at %.1f °C, and the limit is %d °C", b.Celsius, f.Celsius)
	}
	return ""
}
