package apk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// Script is a script of a package that apk would run while it installs it.
// This package never does: an Action has to stand for it.
type Script struct {
	Package string // name
	Version string
	Kind    string // "pre-install", "post-install" or "trigger"
	Text    string
	// Digest is the SHA-256 of Text in hex, which an Action is declared for.
	Digest string
	// Triggers are the directories, with * and ?, whose change runs a trigger.
	Triggers []string
}

// Action stands for one script: what it does to a root file system, declared.
type Action struct {
	Package string // name
	Kind    string // "pre-install", "post-install" or "trigger"
	// Digest is the SHA-256 of the script's text in hex. A script with another
	// text needs another action.
	Digest string
	// Steps are done in order after the files of all packages are there. None
	// means that the script has nothing to do in an image.
	Steps []Step
}

// Step changes a tree. The same tree has to become the same tree: no clock, no
// randomness, nothing from the machine.
type Step interface {
	Do(t *rootfs.Tree) error
}

// scriptsOf are those of a package that run at installation, in the order apk
// runs them.
func scriptsOf(m Meta, texts map[string]string) []Script {
	var out []Script
	for _, kind := range [...]string{"pre-install", "post-install", "trigger"} {
		text, ok := texts[kind]
		if !ok {
			continue
		}
		sum := sha256.Sum256([]byte(text))
		s := Script{Package: m.Name, Version: m.Version, Kind: kind, Text: text, Digest: hex.EncodeToString(sum[:])}
		if kind == "trigger" {
			s.Triggers = m.Triggers
		}
		out = append(out, s)
	}
	return out
}

// Scripts lists the scripts of packages in the order of installation, for
// people to read and to declare actions for. The packages are fetched where
// needed; only what comes before their data is read.
func Scripts(ctx context.Context, pkgs []Selected) ([]Script, error) {
	var out []Script
	for _, s := range pkgs {
		c, err := s.readControl(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, scriptsOf(c.meta, c.scripts)...)
	}
	return out, nil
}

// refuse is the error for a script that no action stands for. other says that
// there is one for another text of it.
func (s Script) refuse(other bool) error {
	when := ""
	if len(s.Triggers) > 0 {
		when = " for changes in " + strings.Join(s.Triggers, " ")
	}
	e := fault.Errorf(fault.Usage, "package %s-%s wants to run a %s script%s, which is never done; it is sha256:%s:\n%s", s.Package, s.Version, s.Kind, when, s.Digest, strings.TrimRight(s.Text, "\n"))
	if other {
		return e.Hintf("the action declared for the %s script of %s is for another text; see whether its steps still do the same, and give it this digest", s.Kind, s.Package)
	}
	return e.Hintf("declare an action for the %s script of %s with this digest that does the same, or has no steps if it is not needed", s.Kind, s.Package)
}

// actionsFor pairs each script with its action.
func actionsFor(scripts []Script, actions []Action) ([]Action, error) {
	var out []Action
	for _, s := range scripts {
		ofScript := func(a Action) bool { return a.Package == s.Package && a.Kind == s.Kind }
		i := slices.IndexFunc(actions, func(a Action) bool { return ofScript(a) && strings.EqualFold(a.Digest, s.Digest) })
		if i < 0 {
			return nil, s.refuse(slices.ContainsFunc(actions, ofScript))
		}
		out = append(out, actions[i])
	}
	return out, nil
}

// run does the actions: the triggers after all others, as apk does.
func run(t *rootfs.Tree, actions []Action) error {
	for _, triggers := range [...]bool{false, true} {
		for _, a := range actions {
			if (a.Kind == "trigger") != triggers {
				continue
			}
			for i, step := range a.Steps {
				if err := step.Do(t); err != nil {
					return fault.Errorf(fault.Usage, "action for the %s script of %s: step %d: %w", a.Kind, a.Package, i+1, err)
				}
			}
		}
	}
	return nil
}

// readControl reads and verifies what comes before the data of the package.
func (s Selected) readControl(ctx context.Context) (control, error) {
	path, remove, err := s.src.fetch(ctx, s.Meta)
	if err != nil {
		return control{}, fmt.Errorf("repository %s: %w", s.Repository, err)
	}
	defer remove()
	return readControlOf(path, nil, &s.Meta)
}
