package signature

import (
	"fmt"
	"slices"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Trust is what a machine, or whatever else takes bundles, knows of the key that
// signs them. The zero value knows none yet.
type Trust struct {
	Key Key `json:"key"`
	// Index is the highest that was accepted, Version its version and Bundle the
	// digest of its manifest.
	Index   int64  `json:"index"`
	Version string `json:"version,omitempty"`
	Bundle  string `json:"bundle"`
	// Ended are the keys before Key.
	Ended []Rotation `json:"ended,omitempty"`
	// Rollbacks are the times that something older was let through, the last 16.
	Rollbacks []Rollback `json:"rollbacks,omitempty"`
}

// Rollback is a bundle of a lower index that was accepted all the same.
type Rollback struct {
	Time   time.Time `json:"time"`
	From   int64     `json:"from"` // the highest index by then
	To     int64     `json:"to"`
	Bundle string    `json:"bundle"` // the digest of the manifest
}

const maxRollbacks = 16

// Offer is a bundle that wants in.
type Offer struct {
	Name, Arch string
	Manifest   []byte
	// Key is the one that the manifest names, "" for none.
	Key Key
	// Signature is the text, nil where the bundle has none.
	Signature []byte
	// Rollback lets an older one in.
	Rollback bool
}

// Accept says what is known after a bundle was let in, and what was signed; nil
// where neither it nor the machine has a key, which is as trusting as it was. A
// bundle that is not to be let in is an error of class fault.Verification. t may
// be nil, and is not changed.
func (t *Trust) Accept(o Offer, now time.Time) (*Trust, *Signed, error) {
	if t == nil {
		t = &Trust{}
	}
	if t.Key == "" && o.Key == "" {
		return nil, nil, nil
	}
	pinned := t.Key
	if pinned == "" {
		pinned = o.Key // the first one seen
	}
	if o.Signature == nil {
		return nil, nil, fault.Errorf(fault.Verification, "the bundle is not signed, and only what the key %s signs is taken", pinned).
			Hintf("fetch the signature with the bundle, or have it signed")
	}
	s, err := Verify(o.Signature, o.Manifest)
	if err != nil {
		return nil, nil, err
	}
	next := *t
	next.Ended, next.Rollbacks = slices.Clone(t.Ended), slices.Clone(t.Rollbacks)
	if err := next.follow(pinned, s); err != nil {
		return nil, nil, err
	}
	switch {
	case s.Name != o.Name || s.Arch != o.Arch:
		return nil, nil, fault.Errorf(fault.Verification, "the signature is of %s for %s, and the bundle is %s for %s", s.Name, s.Arch, o.Name, o.Arch)
	case o.Key == "":
		return nil, nil, fault.Errorf(fault.Verification, "the bundle's manifest names no key, and what is taken here has to name the one that signed it").
			Hintf("build it from a recipe with release: key")
	case o.Key != s.Key:
		return nil, nil, fault.Errorf(fault.Verification, "the bundle's manifest names the key %s, and it is signed by %s", o.Key, s.Key)
	}
	if err := next.see(s, o.Rollback, now); err != nil {
		return nil, nil, err
	}
	return &next, s, nil
}

// follow goes from a trusted key along the rotations to the one that signed.
func (t *Trust) follow(pinned Key, s *Signed) error {
	t.Key = pinned
	for _, r := range s.Rotations {
		if r.From != t.Key {
			continue // before the time of this one
		}
		t.Ended, t.Key = append(t.Ended, r), r.To
	}
	if t.Key == s.Key {
		return nil
	}
	// Which of the ways to be somebody else's is it?
	ended := func(k Key) *Rotation {
		for i := range t.Ended {
			if t.Ended[i].From == k {
				return &t.Ended[i]
			}
		}
		return nil
	}
	if r := ended(s.Key); r != nil {
		return fault.Errorf(fault.Verification, "the bundle is signed by the key %s, which was ended with index %d by the key %s", s.Key, r.Index, r.To).
			Hintf("get it signed by %s", t.Key)
	}
	for _, r := range s.Rotations {
		if e := ended(r.From); e != nil && e.To != r.To {
			return fault.Errorf(fault.Verification, "a rotation of the key %s to %s came after that key's end: it was rotated to %s before, with index %d", r.From, r.To, e.To, e.Index).
				Hintf("whoever has the old key could have made this; the key is %s now", t.Key)
		}
	}
	return fault.Errorf(fault.Verification, "the bundle is signed by the key %s, and only what %s signs is taken", s.Key, pinned).
		Hintf("if its owner has another key, the rotation to it belongs into the signature")
}

// see notes an index.
func (t *Trust) see(s *Signed, rollback bool, now time.Time) error {
	switch {
	case s.Index > t.Index:
		t.Index, t.Version, t.Bundle = s.Index, s.Version, s.Manifest
	case s.Index == t.Index && s.Manifest == t.Bundle:
	case s.Index == t.Index:
		return fault.Errorf(fault.Verification, "the index %d was seen before, of the bundle %.19s…, and this is %.19s…: it is used twice", s.Index, t.Bundle, s.Manifest).
			Hintf("sign the newer one with a higher index")
	default:
		return t.Older(s.Index, s.Manifest, rollback, now)
	}
	return nil
}

// Older notes that something of a lower index than the highest comes in, or
// refuses it where that is not allowed.
func (t *Trust) Older(index int64, bundle string, allowed bool, now time.Time) error {
	if index >= t.Index {
		return nil
	}
	if !allowed {
		return fault.Errorf(fault.Verification, "index %d is older than %d, the highest seen (version %s)", index, t.Index, t.Version).
			Hintf("an older bundle may have holes that are known by now; allow the rollback if it is to be")
	}
	t.Rollbacks = append(t.Rollbacks, Rollback{now.UTC().Truncate(time.Second), t.Index, index, bundle})
	t.Rollbacks = t.Rollbacks[max(len(t.Rollbacks)-maxRollbacks, 0):]
	return nil
}

// Check says what is wrong with what was remembered.
func (t *Trust) Check() error {
	switch {
	case t.Key.Check() != nil:
		return fmt.Errorf("key: %q is none", t.Key)
	case t.Index < 1 || t.Index > MaxIndex:
		return fmt.Errorf("index: %d is not from 1 to %d", t.Index, int64(MaxIndex))
	case !digestForm.MatchString(t.Bundle):
		return fmt.Errorf("bundle: %q is not sha256: and 64 hex digits", t.Bundle)
	case len(t.Ended) > 1024 || len(t.Rollbacks) > maxRollbacks:
		return fmt.Errorf("it is too long")
	}
	for _, r := range t.Ended {
		if err := r.check(); err != nil {
			return fmt.Errorf("ended: %w", err)
		}
	}
	return nil
}
