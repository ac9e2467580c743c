// Package program is sovereign-sigstore: a job of package sigstorejob comes in,
// and whether the signature is one goes out.
//
// Nothing is fetched. Who is trusted stands in the file that the job names, and
// that decides what a signature needs as well: where it has transparency logs,
// an entry in one of them; where it has logs of certificates, an entry in one of
// these; and always the word of a log or of a time stamping authority that it
// was made while its certificate was good.
package program

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/sovereign-build/sovereign/internal/sigstorejob"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Main is the program. What is wrong with a signature is an answer, and 0.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		fmt.Fprintf(stderr, "%s is run by sovereign-build verify --sigstore-bundle\n", sigstorejob.Program)
		return int(fault.Usage)
	}
	var a sigstorejob.Answer
	result, err := run(ctx, stdin)
	if err != nil {
		a.Failure = sigstorejob.NewFailure(err)
	} else {
		a.Result = result
	}
	if err := json.NewEncoder(stdout).Encode(a); err != nil {
		fmt.Fprintln(stderr, err)
		return int(fault.Environment)
	}
	return 0
}

func run(ctx context.Context, stdin io.Reader) (*sigstorejob.Result, error) {
	text, err := io.ReadAll(io.LimitReader(stdin, sigstorejob.MaxMessage+1))
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if len(text) > sigstorejob.MaxMessage {
		return nil, fault.Errorf(fault.Usage, "the job has more than %d bytes", sigstorejob.MaxMessage)
	}
	var j sigstorejob.Job
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return nil, fault.Errorf(fault.Usage, "the job: %w", err)
	}
	if err := j.Check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return Verify(j)
}

// Verify does the job. What is wrong with the signature is an error of class
// fault.Verification.
func Verify(j sigstorejob.Job) (_ *sigstorejob.Result, err error) {
	// The parsers of certificates, time stamps and logs are many, and the file is
	// a stranger's.
	defer func() {
		if p := recover(); p != nil {
			err = fault.Errorf(fault.Verification, "%s: its parser gave up: %v", j.Bundle, p)
		}
	}()
	digest, err := hex.DecodeString(j.SHA256)
	if err != nil || len(digest) != 32 {
		return nil, fault.Errorf(fault.Usage, "%q is not a SHA-256", j.SHA256)
	}
	text, err := read(j.Root)
	if err != nil {
		return nil, err
	}
	trusted, err := root.NewTrustedRootFromJSON(text)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%s is not a trusted root of Sigstore's: %w", j.Root, err).
			Hintf("it is the file trusted_root.json that cosign trusted-root create or a TUF repository gives")
	}
	if text, err = read(j.Bundle); err != nil {
		return nil, err
	}
	signed := new(bundle.Bundle)
	if err := signed.UnmarshalJSON(text); err != nil {
		return nil, fault.Errorf(fault.Verification, "%s is not a bundle of Sigstore's: %w", j.Bundle, err).
			Hintf("it is what cosign sign-blob --bundle writes, in the new format")
	}
	var needs []verify.VerifierOption
	if len(trusted.RekorLogs()) > 0 {
		needs = append(needs, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	} else {
		needs = append(needs, verify.WithSignedTimestamps(1))
	}
	if len(trusted.CTLogs()) > 0 {
		needs = append(needs, verify.WithSignedCertificateTimestamps(1))
	}
	verifier, err := verify.NewVerifier(trusted, needs...)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	identity, err := verify.NewShortCertificateIdentity(j.Issuer, whole(j.IssuerRegexp), j.Identity, whole(j.IdentityRegexp))
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	found, err := verifier.Verify(signed, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), verify.WithCertificateIdentity(identity)))
	if err != nil {
		return nil, fault.Errorf(fault.Verification, "%s: %w", j.Bundle, err)
	}
	if found.Signature == nil || found.Signature.Certificate == nil || len(found.VerifiedTimestamps) == 0 {
		return nil, fault.Errorf(fault.Verification, "%s: nobody says when, or by whose certificate it was signed", j.Bundle)
	}
	c, when := found.Signature.Certificate, found.VerifiedTimestamps[0]
	for _, t := range found.VerifiedTimestamps {
		if t.Timestamp.Before(when.Timestamp) {
			when = t
		}
	}
	return &sigstorejob.Result{Identity: c.SubjectAlternativeName, Issuer: c.Issuer, Time: when.Timestamp.UTC(), Witness: when.Type + " " + when.URI, Envelope: found.Statement != nil}, nil
}

// whole makes a regular expression one for all of a value: the library takes
// one that fits any part of it.
func whole(expression string) string {
	if expression == "" {
		return ""
	}
	return `^(?:` + expression + `)$`
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "%w", err)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close() // only read
	text, err := io.ReadAll(io.LimitReader(f, sigstorejob.MaxFile+1))
	if err == nil && len(text) > sigstorejob.MaxFile {
		return nil, fault.Errorf(fault.Verification, "%s is larger than %d bytes", path, sigstorejob.MaxFile)
	}
	return text, fault.Wrap(fault.Environment, err)
}
