package android

import (
	"context"
	"errors"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Charges says whether the phone's battery is not getting emptier; one without a
// battery charges.
func (k *Keeper) Charges() (bool, error) {
	b, err := k.root.battery()
	return !draining(b), err
}

// Unmetered says whether the network that the phone uses costs nothing by use, as
// the framework has it. Without a network it is not.
func (k *Keeper) Unmetered(ctx context.Context) (bool, error) {
	limit, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	text, err := k.run(limit, "dumpsys", "connectivity")
	if err != nil {
		return false, err
	}
	free, err := unmetered(text)
	return free, fault.Wrap(fault.Environment, err)
}

// unmetered reads what dumpsys says of ConnectivityService: which network is the
// default one, and in a line of its own each with what it is.
func unmetered(text string) (bool, error) {
	_, rest, found := strings.Cut(text, "Active default network: ")
	if !found {
		return false, errors.New("dumpsys connectivity says no default network")
	}
	id, _, _ := strings.Cut(rest, "\n")
	if id = strings.TrimSpace(id); id == "none" || id == "null" {
		return false, nil
	}
	for line := range strings.Lines(rest) {
		if !strings.Contains(line, "NetworkAgentInfo") || !strings.Contains(line, "network{"+id+"}") && !strings.Contains(line, "- "+id+"]") {
			continue
		}
		_, capabilities, found := strings.Cut(line, "Capabilities: ")
		if !found {
			return false, errors.New("dumpsys connectivity says nothing of what the network " + id + " can do")
		}
		capabilities, _, _ = strings.Cut(capabilities, " ")
		for word := range strings.SplitSeq(strings.TrimSpace(capabilities), "&") {
			if word == "NOT_METERED" {
				return true, nil
			}
		}
		return false, nil
	}
	return false, errors.New("dumpsys connectivity does not name the network " + id)
}
