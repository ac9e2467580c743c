package source

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// MissingError is inputs that have left every mirror and are not in the store:
// the lock has to change. It comes wrapped in a fault.Error of class
// fault.Source whose hint names the command.
type MissingError struct {
	// Names of the inputs, sorted.
	Names []string
	// Said is what each mirror answered, by name of the input.
	Said map[string][]string
}

// Error names every input and what each mirror said.
func (e *MissingError) Error() string {
	var b strings.Builder
	for i, n := range e.Names {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s has left every mirror of the lock (%s)", n, strings.Join(e.Said[n], "; "))
	}
	return b.String()
}

func newMissing(said map[string][]string) error {
	e := &MissingError{Said: said}
	for n := range said {
		e.Names = append(e.Names, n)
	}
	slices.Sort(e.Names)
	hint := make([]string, len(e.Names))
	for i, n := range e.Names {
		hint[i] = fmt.Sprintf("sovereign-build lock --update %s RECIPE", n)
	}
	return fault.Errorf(fault.Source, "%w", e).Hintf("run %s", strings.Join(hint, " and "))
}

// goneError is a mirror that answered and does not have the file.
type goneError struct{ what string }

func (e *goneError) Error() string { return e.what }

// attemptError is one input that no mirror gave.
type attemptError struct {
	name string
	said []string // one line a mirror
	errs []error
}

func (a *attemptError) add(mirror string, err error) {
	a.said = append(a.said, mirror+": "+err.Error())
	a.errs = append(a.errs, err)
}

// verification is the first error about wrong bytes, or nil.
func (a *attemptError) verification() error {
	for _, err := range a.errs {
		if fault.ClassOf(err) == fault.Verification {
			return err
		}
	}
	return nil
}

func (a *attemptError) gone() bool {
	for _, err := range a.errs {
		var g *goneError
		if errors.As(err, &g) {
			return true
		}
	}
	return false
}

// judge turns the inputs that no mirror gave into one error. Wrong bytes come
// first, because re-locking must not paper over them; an input is missing only
// if a mirror that answered said so, because a network that is down is no
// reason to change a lock.
func judge(failed []*attemptError) error {
	if len(failed) == 0 {
		return nil
	}
	slices.SortFunc(failed, func(a, b *attemptError) int { return strings.Compare(a.name, b.name) })
	missing := make(map[string][]string)
	var unreachable []string
	for _, a := range failed {
		if err := a.verification(); err != nil {
			return fault.Errorf(fault.Verification, "%s: %w (mirrors: %s)", a.name, err, strings.Join(a.said, "; ")).
				Hintf("if the new bytes are right, run sovereign-build lock --update %s RECIPE", a.name)
		}
		if a.gone() {
			missing[a.name] = append(missing[a.name], a.said...)
		} else {
			unreachable = append(unreachable, fmt.Sprintf("%s (%s)", a.name, strings.Join(a.said, "; ")))
		}
	}
	if len(missing) > 0 {
		return newMissing(missing)
	}
	return fault.Errorf(fault.Source, "no mirror could be reached for %s", strings.Join(unreachable, ", ")).
		Hintf("check the network and run the command again")
}

func offlineError(names []string) error {
	return fault.Errorf(fault.Source, "offline, and not in the content store: %s", strings.Join(names, ", ")).
		Hintf("run once with a network, without --offline")
}

// checkRedirect lets a redirect lead to https only; from plain http, which
// only Debian's mirrors use, also to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	was := via[len(via)-1].URL
	if req.URL.Scheme == "https" || (was.Scheme == "http" && req.URL.Scheme == "http") {
		return nil
	}
	return fmt.Errorf("%s redirects to %s, which is not https", was.Redacted(), req.URL.Redacted())
}

// wrongSize is the verification error for a file whose length alone shows that
// it is another one.
func wrongSize(want store.Digest, wantSize, got int64) error {
	return fault.Errorf(fault.Verification, "wrong file: expected %s of %d bytes, got %d bytes", want, wantSize, got)
}
