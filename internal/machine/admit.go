package machine

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// admission is what is known after a bundle was let in.
type admission struct {
	trust   *signature.Trust // nil where nothing has to be signed
	version string
	index   int64
}

// admit says whether the bundle of a digest may come to this machine: whether
// it is signed as the record wants it, or at the first one as its own manifest
// does, and not older than what was here. Nothing of the bundle is used before,
// and nothing is written here.
func (in *installed) admit(from Source, digest string, allowRollback bool) (admission, error) {
	offer, _, err := bundle.Offer(from.Dir)
	if err != nil {
		return admission{}, err
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(offer.Manifest)); got != digest {
		return admission{}, fault.Errorf(fault.Verification, "%s: expected the bundle %s, got %s", from.from(), digest, got).Hintf(bundleHint)
	}
	offer.Rollback = allowRollback
	trust, signed, err := in.Release.Accept(offer, time.Now())
	if err != nil || trust == nil {
		return admission{}, err
	}
	return admission{trust, signed.Version, signed.Index}, nil
}

// goBack notes that a slot of an older bundle is to be active again, or refuses
// that.
func (in *installed) goBack(slot Slot, allowed bool) error {
	if in.Release == nil {
		return nil
	}
	next := *in.Release
	if err := next.Older(slot.Index, slot.Digest, allowed, time.Now()); err != nil {
		return err
	}
	in.Release = &next
	return nil
}
