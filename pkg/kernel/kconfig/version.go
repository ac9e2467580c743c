package kconfig

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// The versions of Linux whose Kconfig language this package reads. 6.10 gave up
// tristate and optional choices and "option", 6.18 added transitional symbols,
// 7.0 the "if" of "depends on".
const (
	firstVersion = "5.10"
	lastVersion  = "7.0"
)

// olderLanguage says whether a source is of before Linux 6.10. So are programs
// that took Kconfig over and number their versions from 1 (busybox) or by the
// year (U-Boot).
func olderLanguage(version string) bool {
	v, ok := majorMinor(version)
	return ok && (v.compare(kernelRelease{6, 10}) < 0 || v.major >= 2000)
}

// languageFault is an error in the Kconfig files of a kernel, with a hint where
// its version says that the language may be another one.
func languageFault(err error, version string) error {
	if v, ok := majorMinor(version); ok {
		first, _ := majorMinor(firstVersion)
		last, _ := majorMinor(lastVersion)
		switch {
		case v.compare(last) > 0:
			return fault.Errorf(fault.Source, "%w", err).
				Hintf("the source is Linux %s, and the Kconfig language is known here up to that of Linux %s: use a newer release of this tool", version, lastVersion)
		case v.compare(first) < 0:
			return fault.Errorf(fault.Source, "%w", err).
				Hintf("the source is Linux %s, and the Kconfig language is known here from that of Linux %s on: use a newer kernel", version, firstVersion)
		}
	}
	return fault.Wrap(fault.Source, err)
}

// kernelRelease is the beginning of a version, 6.12 of 6.12.107-rc1.
type kernelRelease struct{ major, minor int }

func (v kernelRelease) compare(w kernelRelease) int {
	return cmp.Or(cmp.Compare(v.major, w.major), cmp.Compare(v.minor, w.minor))
}

func majorMinor(version string) (kernelRelease, bool) {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	minor, _, _ = strings.Cut(minor, "-")
	a, err := strconv.Atoi(major)
	if err != nil {
		return kernelRelease{}, false
	}
	b, err := strconv.Atoi(minor)
	return kernelRelease{a, b}, err == nil
}
