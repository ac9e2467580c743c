package runtime

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// WitnessStatus is what is known of a witness elsewhere, which a machine's host
// tells of the history of its data disk; see package witness.
type WitnessStatus struct {
	URL string `json:"url"`
	Key string `json:"key,omitempty"` // that signs its answers
	// Signed is what it has signed to keep, last, at At; nil before that.
	Signed *Continuity `json:"signed,omitempty"`
	At     time.Time   `json:"at,omitzero"`
	// Keeps is what it says now, and since when; only of AskWitnesses, and nil
	// where it keeps nothing.
	Keeps *Continuity `json:"keeps,omitempty"`
	Since time.Time   `json:"since,omitzero"`
	// Alarm is what is wrong with the witness itself: it was put back, or lies.
	Alarm string `json:"alarm,omitempty"`
	// Trouble is why it could not be asked or told, the last time; Class is the
	// class of that, of AskWitnesses alone.
	Trouble string      `json:"trouble,omitempty"`
	Class   fault.Class `json:"class,omitempty"`
}

// AddWitness has the machine's host tell a witness of the history of its data
// disk from now on, and ask it at each of the machine's starts. The address is
// https://HOST:PORT, with ?fingerprint=SHA256 where nobody vouches for its
// certificate; the token is kept by the host. Key is the public key that its
// answers are held to; an empty one is asked for, taken and returned.
func (m *Machine) AddWitness(ctx context.Context, address, token, key string) (string, error) {
	var answer requests.WitnessAdded
	err := m.h.call(ctx, http.MethodPut, machinePath(m.name, "witnesses"), requests.Witness{URL: address, Token: token, Key: key}, &answer)
	return answer.Key, err
}

// RemoveWitness has the host not tell a witness any more.
func (m *Machine) RemoveWitness(ctx context.Context, address string) error {
	return m.h.call(ctx, http.MethodDelete, machinePath(m.name, "witnesses")+"?"+url.Values{"url": {address}}.Encode(), nil, nil)
}

// AskWitnesses has the host ask each of the machine's witnesses what it keeps.
func (m *Machine) AskWitnesses(ctx context.Context) ([]WitnessStatus, error) {
	var list []WitnessStatus
	err := m.h.ask(ctx, http.MethodGet, machinePath(m.name, "witnesses"), nil, &list)
	return list, err
}
