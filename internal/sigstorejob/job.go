// Package sigstorejob is what sovereign-build and sovereign-sigstore say to each
// other: one [Job] as JSON on the standard input of the second, one [Answer] on
// its standard output.
//
// The second is a program of its own because sigstore-go is some 70 modules and
// 540 packages, of which nothing else here has a use ([docs/releases.md]).
//
// [docs/releases.md]: https://github.com/sovereign-build/sovereign/blob/main/docs/releases.md#sigstore
package sigstorejob

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Program is the name of the program.
const Program = "sovereign-sigstore"

// Limits, in bytes: of a job and an answer, and of the files that a job names.
const (
	MaxMessage = 64 << 10
	MaxFile    = 16 << 20
)

// timeout ends a program that does not answer; a check takes milliseconds.
const timeout = time.Minute

// Job is a check of a signature.
type Job struct {
	// Bundle is the file with the signature, a Sigstore bundle in JSON; Root the
	// one with those that are trusted, trusted_root.json.
	Bundle string `json:"bundle"`
	Root   string `json:"root"`
	// SHA256 is of what has to be signed, 64 hex digits.
	SHA256 string `json:"sha256"`
	// Who has to have signed it, and who has to have vouched for that: a value or
	// a regular expression for the whole of one.
	Identity       string `json:"identity,omitempty"`
	IdentityRegexp string `json:"identity_regexp,omitempty"`
	Issuer         string `json:"issuer,omitempty"`
	IssuerRegexp   string `json:"issuer_regexp,omitempty"`
}

// Check finds what no job may say; errors are of class fault.Usage.
func (j Job) Check() error {
	fail := func(format string, args ...any) *fault.Error { return fault.Errorf(fault.Usage, format, args...) }
	switch {
	case j.Bundle == "":
		return fail("the file with the signature is not named").Hintf("name it with --sigstore-bundle")
	case j.Root == "":
		return fail("nobody says who is trusted").Hintf("give Sigstore's trusted_root.json, or that of your own, with --sigstore-root")
	case (j.Identity == "") == (j.IdentityRegexp == ""):
		return fail("want one of an identity and a regular expression for it").Hintf("give --sigstore-identity: without it anybody's signature would do")
	case (j.Issuer == "") == (j.IssuerRegexp == ""):
		return fail("want one of an issuer of identities and a regular expression for it").Hintf("give --sigstore-issuer: another one may vouch for the same name")
	}
	for _, r := range []string{j.IdentityRegexp, j.IssuerRegexp} {
		if _, err := regexp.Compile(r); err != nil {
			return fail("%w", err)
		}
	}
	return nil
}

// Answer has one of the two.
type Answer struct {
	Result  *Result  `json:"result,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
}

// Result says who signed.
type Result struct {
	Identity string    `json:"identity"`
	Issuer   string    `json:"issuer"`
	Time     time.Time `json:"time"`     // the earliest that is vouched for
	Witness  string    `json:"witness"`  // of the time: a log or an authority
	Envelope bool      `json:"envelope"` // it is a statement about the file
}

// Failure is an error with its class.
type Failure struct {
	Class int    `json:"class"`
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"`
}

// NewFailure carries an error over.
func NewFailure(err error) *Failure {
	return &Failure{int(fault.ClassOf(err)), err.Error(), fault.HintOf(err)}
}

// Err is the error that it was.
func (f *Failure) Err() error {
	class := fault.Class(f.Class)
	switch class {
	case fault.Usage, fault.Environment, fault.Verification:
	default: // whatever the program is, it does not say yes
		class = fault.Internal
	}
	e := fault.Errorf(class, "%s", printable.Line(f.Text))
	if f.Hint == "" {
		return e
	}
	return e.Hintf("%s", printable.Line(f.Hint))
}

// ParseAnswer reads an answer.
func ParseAnswer(text []byte) (*Result, error) {
	var a Answer
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&a)
	switch {
	case err != nil:
		return nil, fault.Errorf(fault.Internal, "%s: %w", Program, err)
	case a.Failure != nil:
		return nil, a.Failure.Err()
	case a.Result == nil:
		return nil, fault.Errorf(fault.Internal, "%s answers neither yes nor no", Program)
	}
	a.Result.Identity, a.Result.Issuer, a.Result.Witness = printable.Line(a.Result.Identity), printable.Line(a.Result.Issuer), printable.Line(a.Result.Witness)
	return a.Result, nil
}

// Find is the path of the program: beside this one, else in PATH.
func Find() (string, error) {
	path, err := process.FindProgram(Program)
	if err != nil {
		return "", fault.Errorf(fault.Environment, "%s, which checks signatures of Sigstore, is neither beside this program nor in PATH", Program).
			Hintf("build it with make bin/sovereign-sigstore, and have it beside sovereign-build")
	}
	return path, nil
}

// Run has the program at path do the job.
func Run(ctx context.Context, path string, j Job) (*Result, error) {
	if err := j.Check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, path)
	cmd.WaitDelay = time.Second
	var out, said atMost
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &out, &said
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case limited.Err() != nil:
		return nil, fault.Errorf(fault.Environment, "%s did not answer within %s", path, timeout)
	case err != nil:
		return nil, fault.Errorf(fault.Environment, "%s: %w: %s", path, err, printable.Line(strings.TrimSpace(said.String())))
	}
	return ParseAnswer(out.Bytes())
}

// atMost is a buffer for one message.
type atMost struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *atMost) Write(p []byte) (int, error) {
	if b.Len()+len(p) > MaxMessage {
		return 0, errors.New("it says too much")
	}
	return b.Buffer.Write(p)
}
