package adb

import (
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A Refusal is what the server said instead of doing what was asked for, as
// errors.As finds it below an error that says what to do.
type Refusal struct {
	Kind Kind
	Text string // the server's own words
}

// Kind is why.
type Kind string

// Kinds of refusal, and states of a phone that nothing can be asked of.
const (
	Unauthorized  Kind = "unauthorized"   // nobody has allowed this computer on the phone's screen
	Authorizing   Kind = "authorizing"    // that is under way
	Offline       Kind = "offline"        // its adbd does not answer
	NoPermissions Kind = "no permissions" // this user may not open the USB device
	Several       Kind = "several"        // which of them was not said
	NotThere      Kind = "not there"
	Other         Kind = "other"
)

func (r *Refusal) Error() string { return oneLine(r.Text) }

// refusal is the error for the server's words.
func refusal(text string) error {
	r := &Refusal{Kind: kindOf(text), Text: text}
	e := fault.Errorf(fault.Device, "%w", r)
	if r.Kind == NoPermissions || r.Kind == Several {
		e = fault.Errorf(fault.Environment, "%w", r)
	}
	if hint := r.Kind.mend(); hint != "" {
		return e.Hintf("%s", hint)
	}
	return e
}

// kindOf knows the words of the adb servers of the years from 2016 on
// (transport.cpp, adb.cpp).
func kindOf(text string) Kind {
	for _, w := range []struct {
		words string
		kind  Kind
	}{
		{"still authorizing", Authorizing},
		{"unauthorized", Unauthorized},
		{"insufficient permissions", NoPermissions},
		{"no permissions", NoPermissions},
		{"more than one", Several},
		{"not found", NotThere},
		{"no devices", NotThere},
		{"still connecting", Offline},
		{"offline", Offline},
	} {
		if strings.Contains(text, w.words) {
			return w.kind
		}
	}
	return Other
}

// mend says what a person does about it, "" where that is not known.
func (k Kind) mend() string {
	switch k {
	case Unauthorized:
		return "unlock the phone and allow USB debugging for this computer, which it asks on its screen; where it does not ask, revoke the authorizations in its developer options and plug it in again"
	case Authorizing:
		return "unlock the phone and allow USB debugging for this computer, which it asks on its screen"
	case Offline:
		return "unplug the phone and plug it in again, or adb reconnect; by network, adb connect again"
	case NoPermissions:
		return "on Debian, apt-get install android-sdk-platform-tools-common and plug the phone in again; the user is to be in the group plugdev"
	case Several:
		return "say which by its serial number"
	case NotThere:
		return "plug it in and switch USB debugging on in its developer options; by network, adb connect HOST:PORT first"
	}
	return ""
}
