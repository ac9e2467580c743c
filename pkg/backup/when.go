package backup

import (
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Condition is what a device has to be for a backup or a drill by itself, unless
// that is overdue.
type Condition string

// Conditions. A device without a battery charges, and one that does not say what
// its network costs pays nothing for it.
const (
	Charging  Condition = "charging"
	Unmetered Condition = "unmetered"
)

// ParseWhen reads conditions with commas between them; "always" is none. Errors
// are of class fault.Usage.
func ParseWhen(text string) ([]Condition, error) {
	if text == "always" {
		return nil, nil
	}
	var list []Condition
	for word := range strings.SplitSeq(text, ",") {
		c := Condition(word)
		if err := c.check(); err != nil {
			return nil, err
		}
		if !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	slices.Sort(list)
	return list, nil
}

func (c Condition) check() error {
	if c != Charging && c != Unmetered {
		return fault.Errorf(fault.Usage, "%.40q is no condition", string(c)).Hintf("write charging, unmetered, both with a comma between, or always")
	}
	return nil
}
