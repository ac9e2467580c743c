package witnesses

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
	"github.com/sovereign-build/sovereign/pkg/witness"
)

// shown is a witness's address without what nobody reads.
func shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return strings.TrimSuffix(u.Host+u.Path, "/")
}

// givenUp says whether a machine's owner has given up a moment of its history.
func givenUp(h machine.History, lineage string, k point) bool {
	g := h.GivenUp
	return g != nil && g.Lineage == lineage && k.Epoch <= g.Epoch
}

// ofOldGuest is what can be said where the guest is too old to compare: it was
// started with what its host remembers, and has judged that.
func (m *Manager) ofOldGuest(disk agent.Compared, h machine.History, k point) agent.Compared {
	switch {
	case disk.Verdict != "":
		return disk
	case h.Last.Epoch == k.Epoch && h.Last.Hash == k.Hash:
		return agent.Compared{Verdict: continuity.Equal}
	case h.Last.Epoch < k.Epoch:
		return agent.Compared{Verdict: continuity.Behind}
	}
	// Of what lies behind it nobody can tell.
	return agent.Compared{Verdict: continuity.Forked, Oldest: h.Last.Epoch}
}

// Add has a machine's witness told from now on: it is asked first, whether it
// knows the token. An empty key is taken as the witness says it, and returned.
func (m *Manager) Add(ctx context.Context, name, address, token, key string) (string, error) {
	if _, err := m.r.Instance(ctx, name); err != nil {
		return "", err
	}
	c, err := witness.NewClient(address, token, key)
	if err != nil {
		return "", err
	}
	defer c.Close()
	said, err := c.Key(ctx)
	switch {
	case err != nil:
		return "", err
	case key == "":
		key = said
	case key != said:
		return "", fault.Errorf(fault.Verification, "%s has the key %s, and not %s", shown(address), said, key).
			Hintf("see what witness serve prints there")
	}
	err = m.change(name, func(s *state) error {
		n := s.of(address)
		switch {
		case n >= 0 && s.Witnesses[n].Key != key:
			return fault.Errorf(fault.Verification, "%s had the key %s before, and has %s now: it is another witness", shown(address), s.Witnesses[n].Key, key).
				Hintf("if that is meant, remove it first: sovereign-build witness remove %s URL", name)
		case n >= 0:
			s.Witnesses[n].Token = token
			return nil
		case len(s.Witnesses) >= maxWitnesses:
			return fault.Errorf(fault.Usage, "%s has %d witnesses already", name, maxWitnesses)
		}
		s.Witnesses = append(s.Witnesses, entry{URL: address, Key: key, Token: token, Added: time.Now().UTC().Truncate(time.Second)})
		return nil
	})
	m.Look()
	m.o.Changed(name)
	return key, err
}

// Remove has a witness told no more. It keeps what it knows.
func (m *Manager) Remove(ctx context.Context, name, address string) error {
	if _, err := m.r.Instance(ctx, name); err != nil {
		return err
	}
	err := m.change(name, func(s *state) error {
		n := s.of(address)
		if n < 0 {
			return fault.Errorf(fault.Usage, "%s has no witness %s", name, address).Hintf("see them: sovereign-build witness status %s", name)
		}
		s.Witnesses = append(s.Witnesses[:n], s.Witnesses[n+1:]...)
		return nil
	})
	m.o.Changed(name)
	return err
}

// Status is what is known of a machine's witnesses, without asking them.
func (m *Manager) Status(name string) []runtime.WitnessStatus {
	s, err := m.load(name)
	if err != nil {
		return []runtime.WitnessStatus{{Trouble: err.Error()}}
	}
	var list []runtime.WitnessStatus
	for _, e := range s.Witnesses {
		w := runtime.WitnessStatus{URL: e.URL, Key: e.Key, Alarm: e.Alarm, Trouble: m.trouble(name + " " + e.URL)}
		if e.Signed != nil {
			w.Signed = &runtime.Continuity{Lineage: s.Lineage, Epoch: e.Signed.Epoch, Hash: e.Signed.Hash}
			w.At = e.At
		}
		list = append(list, w)
	}
	return list
}

// Ask asks each of a machine's witnesses now. What goes wrong with one is its
// trouble.
func (m *Manager) Ask(ctx context.Context, name string) ([]runtime.WitnessStatus, error) {
	if _, err := m.r.Instance(ctx, name); err != nil {
		return nil, err
	}
	s, err := m.load(name)
	if err != nil {
		return nil, err
	}
	h, err := m.r.History(ctx, name)
	if err != nil {
		return nil, err
	}
	list := m.Status(name)
	for n, e := range s.Witnesses {
		list[n].Trouble = ""
		lineage := s.Lineage
		if lineage == "" && h.Last != nil {
			lineage = h.Last.Lineage
		}
		if lineage == "" {
			list[n].Trouble = "the machine's disk has no history yet"
			continue
		}
		a, err := ask(ctx, e, lineage)
		switch {
		case err != nil:
			list[n].Trouble, list[n].Class = err.Error(), fault.ClassOf(err)
		case a.Kept != nil:
			list[n].Keeps = &runtime.Continuity{Lineage: lineage, Epoch: a.Kept.Epoch, Hash: a.Kept.Hash}
			list[n].Since = a.Since
		}
	}
	return list, nil
}

func ask(ctx context.Context, e entry, lineage string) (witness.Answer, error) {
	c, err := witness.NewClient(e.URL, e.Token, e.Key)
	if err != nil {
		return witness.Answer{}, err
	}
	defer c.Close()
	return c.Ask(ctx, lineage)
}
