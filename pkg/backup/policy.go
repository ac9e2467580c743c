package backup

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Policy is what sovereignd does by itself for the backups of a machine.
type Policy struct {
	Repository string `json:"repository"`
	// EveryS is the time between two backups, and DrillS that between two
	// drills, in seconds; 0: none by itself.
	EveryS int64 `json:"every_s,omitempty"`
	DrillS int64 `json:"drill_s,omitempty"`
	Keep   Keep  `json:"keep,omitzero"`
	// Bundle: the bundle's files go into each backup.
	Bundle bool `json:"bundle,omitempty"`
	// When is what the device has to be, unless it is overdue: twice the time has
	// passed.
	When []Condition `json:"when,omitempty"`
	// LogS: the log of changes of the service that has one is kept as well, so
	// that any moment can be restored; it goes to the repository every so many
	// seconds. 0: it is not kept.
	LogS int64 `json:"log_s,omitempty"`
	// Synchronous: a commit waits until this device has its log on its disk. While
	// the log is not received, commits wait.
	Synchronous bool `json:"synchronous,omitempty"`
	// RecoverForS is for how long back any moment can be restored, in seconds;
	// 0: as long as there are backups.
	RecoverForS int64 `json:"recover_for_s,omitempty"`
}

// Log is how often the log goes to the repository; 0: it is not kept.
func (p Policy) Log() time.Duration { return time.Duration(p.LogS) * time.Second }

// DefaultLog is how often it does where nothing is said.
const DefaultLog = time.Minute

// minLog is the least of that: each time is a few files there.
const minLog = 5 * time.Second

// Every is the time between two backups; 0: none by itself.
func (p Policy) Every() time.Duration { return time.Duration(p.EveryS) * time.Second }

// Drill is the time between two drills; 0: none by itself.
func (p Policy) Drill() time.Duration { return time.Duration(p.DrillS) * time.Second }

// minEvery is the least of times between two: each reads all of the disk.
const (
	minEvery = time.Minute
	maxEvery = 366 * 24 * time.Hour
)

// Check says what is wrong with a policy. Errors are of class fault.Usage.
func (p Policy) Check() error {
	if err := CheckName(p.Repository); err != nil {
		return err
	}
	for what, d := range map[string]time.Duration{"every": p.Every(), "drill": p.Drill()} {
		if d != 0 && (d < minEvery || d > maxEvery) {
			return fault.Errorf(fault.Usage, "%s: %v is not from %v to a year", what, d, minEvery)
		}
	}
	for _, c := range p.When {
		if err := c.check(); err != nil {
			return err
		}
	}
	if d := p.Log(); d != 0 && (d < minLog || d > 24*time.Hour) {
		return fault.Errorf(fault.Usage, "log: %v is not from %v to a day", d, minLog)
	}
	if p.RecoverForS < 0 || p.RecoverForS > 100*366*24*3600 {
		return fault.Errorf(fault.Usage, "recover-for: %d seconds are not from 0 to a hundred years", p.RecoverForS)
	}
	if p.Synchronous && p.LogS == 0 {
		return fault.Errorf(fault.Usage, "synchronous is for a log, and none is kept").Hintf("give --log as well")
	}
	if p.RecoverForS > 0 && p.LogS == 0 {
		return fault.Errorf(fault.Usage, "recover-for is for a log, and none is kept").Hintf("give --log as well")
	}
	return p.Keep.Check()
}

// Keep says how many backups are kept: the newest, and the last of each of so
// many hours, days and so on. All zero keeps all.
type Keep struct {
	Latest  int `json:"latest,omitempty"`
	Hourly  int `json:"hourly,omitempty"`
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"`
	Monthly int `json:"monthly,omitempty"`
	Yearly  int `json:"yearly,omitempty"`
}

func (k *Keep) fields() map[string]*int {
	return map[string]*int{"latest": &k.Latest, "hourly": &k.Hourly, "daily": &k.Daily,
		"weekly": &k.Weekly, "monthly": &k.Monthly, "yearly": &k.Yearly}
}

// maxKeep bounds each of them.
const maxKeep = 10_000

// Check says whether all numbers are in range.
func (k Keep) Check() error {
	for name, n := range k.fields() {
		if *n < 0 || *n > maxKeep {
			return fault.Errorf(fault.Usage, "keep: %s=%d is not from 0 to %d", name, *n, maxKeep)
		}
	}
	return nil
}

// All says whether all backups are kept.
func (k Keep) All() bool { return k == Keep{} }

// String is as ParseKeep reads it.
func (k Keep) String() string {
	var parts []string
	for _, name := range []string{"latest", "hourly", "daily", "weekly", "monthly", "yearly"} {
		if n := *k.fields()[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", name, n))
		}
	}
	if parts == nil {
		return "all"
	}
	return strings.Join(parts, ",")
}

// ParseKeep reads "latest=3,daily=7,weekly=5", or "all".
func ParseKeep(text string) (Keep, error) {
	var k Keep
	if text == "all" {
		return k, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		name, number, _ := strings.Cut(part, "=")
		field, ok := k.fields()[name]
		n, err := strconv.Atoi(number)
		if !ok || err != nil || n < 1 || n > maxKeep {
			return Keep{}, fault.Errorf(fault.Usage, "keep: %.40q is not one of latest, hourly, daily, weekly, monthly, yearly with a number from 1 to %d", part, maxKeep).
				Hintf("write for example latest=3,daily=7,weekly=5,monthly=12, or all")
		}
		*field = n
	}
	return k, nil
}

// ParseInterval reads 30m, 6h, hourly, daily, weekly, monthly or never.
func ParseInterval(text string) (time.Duration, error) {
	switch text {
	case "never":
		return 0, nil
	case "hourly":
		return time.Hour, nil
	case "daily":
		return 24 * time.Hour, nil
	case "weekly":
		return 7 * 24 * time.Hour, nil
	case "monthly":
		return 30 * 24 * time.Hour, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= 366 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < minEvery || d > maxEvery || d%time.Second != 0 {
		return 0, fault.Errorf(fault.Usage, "%.40q is no time from %v to a year", text, minEvery).
			Hintf("write for example 30m, 6h, 2d, daily, weekly or never")
	}
	return d, nil
}
