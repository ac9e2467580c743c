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

// slot notes what was signed of the bundle in a slot.
func (a admission) slot(s Slot) Slot {
	s.Version, s.Index = a.version, a.index
	return s
}

// trusted is what has to sign the machine's bundles. A record that does not say,
// of a machine that was copied or that an older version has installed, is made up
// for by the bundle that the machine has.
func (i *Instance) trusted() *signature.Trust {
	if i.rec.Release != nil || i.rec.Active == "" || i.manifest.Key() == "" {
		return i.rec.Release
	}
	var none *signature.Trust
	if offer, _, err := bundle.Offer(i.slotDir(i.rec.Active)); err == nil {
		if t, _, err := none.Accept(offer, time.Now()); err == nil {
			return t
		}
	}
	return &signature.Trust{Key: signature.Key(i.manifest.Key())}
}

// admit says whether the bundle of a digest may come to this machine: whether
// it is signed as the record wants it, or at the first one as its own manifest
// does, and not older than what was here. Nothing of the bundle is used before,
// and nothing is written here.
func (i *Instance) admit(from Source, digest string, allowRollback bool) (admission, error) {
	offer, _, err := bundle.Offer(from.Dir)
	if err != nil {
		return admission{}, err
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(offer.Manifest)); got != digest {
		return admission{}, fault.Errorf(fault.Verification, "%s: expected the bundle %s, got %s", from.from(), digest, got).Hintf(bundleHint)
	}
	offer.Rollback = allowRollback
	trust, signed, err := i.trusted().Accept(offer, time.Now())
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
