package source

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// MissingError is inputs that are not in the store and that every one of their
// mirrors says it does not have: the lock has to change. A mirror that cannot
// be reached, refuses, or sends something else has not said so. It comes
// wrapped in a fault.Error of class fault.Source whose hint names the command.
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

// newMissing makes the error of missing inputs; unfetched are others that
// failed for another reason, in words.
func newMissing(said map[string][]string, unfetched ...string) error {
	e := &MissingError{Said: said}
	for n := range said {
		e.Names = append(e.Names, n)
	}
	slices.Sort(e.Names)
	err := error(e)
	if len(unfetched) > 0 {
		err = fmt.Errorf("%w; could not be fetched: %s", e, strings.Join(unfetched, ", "))
	}
	return remedy.By(remedy.Remedy{Kind: remedy.Update, Inputs: e.Names},
		fault.Errorf(fault.Source, "%w", err).Hintf("lock other versions of %s", strings.Join(e.Names, ", ")))
}

// goneError is a mirror's answer that it does not have the file: HTTP 404 or
// 410, or a directory without it. No other failure is one.
type goneError struct{ what string }

func (e *goneError) Error() string { return e.what }

func isGone(err error) bool {
	var g *goneError
	return errors.As(err, &g)
}

// statusError is an answer that is no success: that the file is not there, or
// that the server will not give it, which says nothing about the file.
func statusError(resp *http.Response) error {
	text := "HTTP " + resp.Status
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		return &goneError{text}
	}
	return errors.New(text)
}

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

// gone says whether every mirror said that it does not have the input.
func (a *attemptError) gone() bool {
	return len(a.errs) > 0 && !slices.ContainsFunc(a.errs, func(err error) bool { return !isGone(err) })
}

// judge turns the inputs that no mirror gave into one error. Wrong bytes come
// first, because re-locking must not paper over them; an input is missing only
// if every mirror said so, because a network that is down, a portal or a proxy
// that refuses is no reason to change a lock.
func judge(failed []*attemptError) error {
	if len(failed) == 0 {
		return nil
	}
	slices.SortFunc(failed, func(a, b *attemptError) int { return strings.Compare(a.name, b.name) })
	missing := make(map[string][]string)
	var unfetched []string
	for _, a := range failed {
		if err := a.verification(); err != nil {
			return remedy.By(remedy.Remedy{Kind: remedy.Update, Inputs: []string{a.name}},
				fault.Errorf(fault.Verification, "%s: %w (mirrors: %s)", a.name, err, strings.Join(a.said, "; ")).
					Hintf("if the new bytes are right, lock them"))
		}
		if a.gone() {
			missing[a.name] = append(missing[a.name], a.said...)
		} else {
			unfetched = append(unfetched, fmt.Sprintf("%s (%s)", a.name, strings.Join(a.said, "; ")))
		}
	}
	if len(missing) > 0 {
		return newMissing(missing, unfetched...)
	}
	return fault.Errorf(fault.Source, "could not be fetched: %s", strings.Join(unfetched, ", ")).
		Hintf("check the network and run the command again; the lock need not change before every mirror says that it does not have the file")
}

func offlineError(names []string) error {
	return remedy.By(remedy.Remedy{Kind: remedy.GoOnline}, fault.Errorf(fault.Source, "offline, and not in the content store: %s", strings.Join(names, ", ")).
		Hintf("do it once with a network"))
}

// redirectError is a redirect that is not followed.
type redirectError struct{ what string }

func (e *redirectError) Error() string { return e.what }

// checkRedirect lets a redirect lead to https only; from plain http, which
// only Debian's mirrors use, also to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return &redirectError{"more than 10 redirects"}
	}
	was := via[len(via)-1].URL
	if req.URL.Scheme == "https" || (was.Scheme == "http" && req.URL.Scheme == "http") {
		return nil
	}
	return &redirectError{fmt.Sprintf("%s redirects to %s, which is not https", was.Redacted(), req.URL.Redacted())}
}

// wrongSize is the verification error for a file whose length alone shows that
// it is another one.
func wrongSize(want store.Digest, wantSize, got int64) error {
	return fault.Errorf(fault.Verification, "wrong file: expected %s of %d bytes, got %d bytes", want, wantSize, got)
}
