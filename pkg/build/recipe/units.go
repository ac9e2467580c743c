package recipe

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes. In YAML it is a whole number with a binary unit:
// "512MiB", "8GiB".
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var sizeUnits = [...]struct {
	name string
	size Size
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}}

// UnmarshalText reads "512MiB". Decimal units are refused rather than guessed
// at: "512MB" means two different sizes to two people.
func (s *Size) UnmarshalText(text []byte) error {
	in := string(text)
	digits := strings.TrimRight(in, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit := in[len(digits):]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || digits[0] == '+' {
		if errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("size %q is too large", in)
		}
		return fmt.Errorf("%q is not a size, write a whole number with KiB, MiB, GiB or TiB like %q", in, "512MiB")
	}
	for _, u := range sizeUnits {
		if unit == u.name {
			if n > math.MaxInt64/int64(u.size) {
				return fmt.Errorf("size %q is too large", in)
			}
			*s = Size(n) * u.size
			return nil
		}
	}
	if unit == "" {
		return fmt.Errorf("size %q has no unit, write KiB, MiB, GiB or TiB like %q", in, digits+"MiB")
	}
	for _, u := range sizeUnits {
		if strings.EqualFold(unit[:1], u.name[:1]) && len(unit) <= 3 {
			return fmt.Errorf("size %q has the unit %q, did you mean %q?", in, unit, digits+u.name)
		}
	}
	return fmt.Errorf("size %q has the unknown unit %q, write KiB, MiB, GiB or TiB", in, unit)
}

// String is the size in its largest whole unit, as UnmarshalText reads it;
// sizes that are no whole number of KiB end in "B".
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.size == 0 {
			return fmt.Sprintf("%d%s", s/u.size, u.name)
		}
	}
	if s == 0 {
		return "0KiB"
	}
	return fmt.Sprintf("%dB", int64(s))
}

// MarshalText is String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Duration is a span of time. In YAML it is Go's syntax: "10s", "1m30s".
type Duration time.Duration

// UnmarshalText reads "10s".
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration, write a number with s, m or h like %q", text, "30s")
	}
	*d = Duration(v)
	return nil
}

// String is Go's syntax.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// seconds is for specs that count whole seconds; the checks have made sure
// that nothing is lost.
func (d Duration) seconds() int { return int(time.Duration(d) / time.Second) }
