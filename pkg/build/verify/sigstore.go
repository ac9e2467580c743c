package verify

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/internal/sigstorejob"
)

// Sigstore asks for a signature of Sigstore's on the manifest of a bundle, or on
// the list of a release, beside whatever minisign signed. It is checked without
// a network, by the program sovereign-sigstore.
type Sigstore struct {
	Bundle string // the file with the signature, as cosign writes it
	Root   string // trusted_root.json: who is trusted
	// Who has to have signed, and who has to have vouched for the name: one of
	// each two, the second a regular expression for the whole.
	Identity, IdentityRegexp string
	Issuer, IssuerRegexp     string
	// Program is the path of sovereign-sigstore; "" is that beside this program, or
	// in PATH.
	Program string
}

// job is the question about a file with these bytes.
func (s *Sigstore) job(text []byte) sigstorejob.Job {
	return sigstorejob.Job{Bundle: s.Bundle, Root: s.Root, SHA256: fmt.Sprintf("%x", sha256.Sum256(text)),
		Identity: s.Identity, IdentityRegexp: s.IdentityRegexp, Issuer: s.Issuer, IssuerRegexp: s.IssuerRegexp}
}

// Check finds what cannot be asked, before anything is looked at.
func (s *Sigstore) Check() error { return s.job(nil).Check() }

// sigstore checks that text was signed as the options say; nil asks for nothing.
func (c *checker) sigstore(ctx context.Context, s *Sigstore, text []byte) error {
	if s == nil {
		return nil
	}
	return c.do("sigstore", func() (string, error) {
		program := s.Program
		if program == "" {
			var err error
			if program, err = sigstorejob.Find(); err != nil {
				return "", err
			}
		}
		r, err := sigstorejob.Run(ctx, program, s.job(text))
		if err != nil {
			return "", err
		}
		how := "signed"
		if r.Envelope {
			how = "attested"
		}
		return fmt.Sprintf("%s by %s, for whom %s vouches, at %s by %s", how, r.Identity, r.Issuer, r.Time.Format(time.RFC3339), r.Witness), nil
	})
}
