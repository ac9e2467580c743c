package runtime

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
)

// signedBundle names the bundle in dir, whose blobs were sent, in a request: with
// its signature, where it has one.
func signedBundle(dir, digest string) (requests.Bundle, error) {
	text, err := bundle.Signature(dir)
	return requests.Bundle{Digest: digest, Source: dir, Signature: string(text)}, err
}

// admit refuses a bundle that the host will not take for a machine, before a byte
// of it is sent: by its signature, and by what the host says that it remembers of
// the machine's key. It is for whoever would wait for nothing: the host decides by
// itself what it takes.
func (h *Host) admit(ctx context.Context, name, dir string, options ...UpdateOption) error {
	offer, _, err := bundle.Offer(dir)
	if err != nil {
		return err
	}
	for _, o := range options {
		offer.Rollback = offer.Rollback || o == AllowRollback
	}
	all, err := h.Machines(ctx)
	if err != nil {
		return err
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(offer.Manifest))
	var trust *signature.Trust
	for _, s := range all {
		v := s.Supervision
		if s.Name != name || v == nil {
			continue
		}
		if v.Slots[v.Active].Digest == digest {
			return nil // it is there
		}
		trust = v.Release
	}
	_, _, err = trust.Accept(offer, time.Now())
	return h.said(ctx, err)
}
