package machine

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Secrets are the secrets that the URLs of the ports name, in their order. A
// service may have others, which the bundle's manifest does not tell.
func (i *Instance) Secrets() []SecretRef {
	var refs []SecretRef
	have := map[SecretRef]bool{}
	for _, p := range i.manifest.Ports {
		for _, m := range reference.FindAllStringSubmatch(p.URL, -1) {
			ref := SecretRef{Service: p.Service, Name: m[2]}
			if m[1] == secretReference && !have[ref] {
				have[ref] = true
				refs = append(refs, ref)
			}
		}
	}
	return refs
}

// Secret asks the guest for a secret's value: do not log it.
func (i *Instance) Secret(ctx context.Context, ref SecretRef) (value string, err error) {
	if err := i.known(ref); err != nil {
		return "", err
	}
	err = i.ask(ctx, func(s *session) (err error) {
		value, err = s.Secret(ctx, ref.Service, ref.Name)
		return err
	})
	return value, err
}

// SetSecret hands a secret's value over; the service takes it up at once.
func (i *Instance) SetSecret(ctx context.Context, ref SecretRef, value string) error {
	if err := i.known(ref); err != nil {
		return err
	}
	return i.ask(ctx, func(s *session) error { return s.SetSecret(ctx, ref.Service, ref.Name, value) })
}

// RotateSecret has the guest generate a new value; the service takes it up at
// once.
func (i *Instance) RotateSecret(ctx context.Context, ref SecretRef) error {
	if err := i.known(ref); err != nil {
		return err
	}
	return i.ask(ctx, func(s *session) error { return s.RotateSecret(ctx, ref.Service, ref.Name) })
}

// known says whether the service is one of the machine's; only the guest
// knows all its secrets.
func (i *Instance) known(ref SecretRef) error {
	if ref.Name == "" {
		return fault.Errorf(fault.Usage, "a secret has a name")
	}
	return i.checkServices(ref.Service)
}
