package runtime

import (
	"fmt"
	"strconv"
	"time"
)

// Duration is a time.Duration that is whole milliseconds and a number of
// seconds in JSON.
type Duration time.Duration

// MarshalJSON writes seconds.
func (d Duration) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, time.Duration(d).Seconds(), 'f', -1, 64), nil
}

// maxSeconds is the longest Duration that is read: a century, which the time
// since a boot stays below.
const maxSeconds = 100 * 366 * 86400

// UnmarshalJSON reads seconds, from 0 to a century.
func (d *Duration) UnmarshalJSON(b []byte) error {
	s, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(s >= 0 && s <= maxSeconds) {
		return fmt.Errorf("%.40s is not a number of seconds from 0 to %d", b, maxSeconds)
	}
	*d = Duration(time.Duration(s*1000) * time.Millisecond)
	return nil
}
