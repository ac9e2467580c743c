package crosvm

import (
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// keyValues writes an option's value in crosvm's key-value grammar
// (serde_keyvalue): KEY=VALUE,… in the order given. A value without a word for it
// is a key alone, which is true.
func keyValues(pairs ...[2]string) (string, error) {
	parts := make([]string, 0, len(pairs))
	for _, p := range pairs {
		if p[1] == "" {
			parts = append(parts, p[0])
			continue
		}
		value, err := quote(p[1])
		if err != nil {
			return "", err
		}
		parts = append(parts, p[0]+"="+value)
	}
	return strings.Join(parts, ","), nil
}

// quote writes a value of that grammar. A bare one ends at a comma or a bracket
// and holds no quotes; one in quotes ends at the same quote and knows no escapes,
// so that a value with both kinds cannot be written.
func quote(value string) (string, error) {
	switch {
	case strings.ContainsAny(value, "\x00\n"):
	case !strings.ContainsAny(value, `,[]"'= `):
		return value, nil
	case !strings.Contains(value, `"`):
		return `"` + value + `"`, nil
	case !strings.Contains(value, `'`):
		return `'` + value + `'`, nil
	}
	return "", fault.Errorf(fault.Device, "crosvm's options cannot hold %s", strconv.Quote(value))
}
