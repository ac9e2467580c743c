package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// inputs describes a step: everything its outputs depend on, by name. Values
// are digests, versions or short texts, never paths of this machine, so that
// the same inputs have the same key everywhere.
type inputs map[string]string

// key is the SHA-256 of the description in its canonical form: JSON with
// sorted keys.
func (in inputs) key() (string, error) {
	text, err := json.Marshal(in)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// outputs are a finished step's results, in the content store.
type outputs map[string]store.Digest

// stepKind is how a step is made.
type stepKind int

const (
	// stepOwn is made by this process, sooner than it would be fetched.
	stepOwn stepKind = iota
	// stepShared is made by this process of what is large to fetch, and so taken from
	// others where they have it.
	stepShared
	// stepCompiled is a step of the engine, which Result counts, and shared.
	stepCompiled
)

// cached returns the outputs of the step with these inputs: from the action
// cache where they are there, from what other machines share, from run
// otherwise. Name is the step's name without versions ("port zlib amd64"), by
// which a miss is explained: the last run of that name is compared with this one.
//
// The kind says who runs it, and whether others may have.
func (b *Builder) cached(ctx context.Context, name string, in inputs, kind stepKind, run func(context.Context) (outputs, error)) (outputs, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	key, err := in.key()
	if err != nil {
		return nil, err
	}
	foreign := ""
	if action, ok, err := b.store.Action(key); err != nil {
		return nil, err
	} else if ok && b.trusts(action) {
		b.hit(name, kind == stepCompiled)
		b.tell(StepCached{name})
		b.made(name, key, action.Outputs)
		if kind != stepOwn && !b.planning {
			return action.Outputs, b.share(ctx, key, action)
		}
		return action.Outputs, nil
	} else if ok {
		foreign = action.Signer
	}
	if kind != stepOwn && !b.planning {
		out, err := b.findShared(ctx, name, key, kind)
		if out != nil || err != nil {
			return out, err
		}
	}
	reason, err := b.whyMissed(name, in)
	if err != nil {
		return nil, err
	}
	if foreign != "" {
		reason = "what the store has was made by " + foreign + ", whose key is not trusted here"
	}
	b.tell(StepMissed{name, reason})
	b.miss(name, reason, kind == stepCompiled)
	if b.planning {
		return nil, errPlanned
	}

	b.tell(StepStarted{name})
	start := time.Now()
	out, err := run(ctx)
	if err != nil {
		return nil, err
	}
	took := time.Since(start)
	description, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	action := store.Action{Name: name, Description: description, Outputs: out}
	if err := b.store.PutAction(key, action); err != nil {
		return nil, err
	}
	b.done(name, took, kind == stepCompiled)
	b.made(name, key, out)
	if kind != stepOwn {
		err = b.share(ctx, key, action)
	}
	return out, err
}

// done notes a step that ran.
func (b *Builder) done(step string, took time.Duration, engine bool) {
	b.mu.Lock()
	b.result.Took = append(b.result.Took, Took{Step: step, Seconds: took.Seconds()})
	if engine {
		b.result.StepsRun++
	}
	b.mu.Unlock()
	b.tell(StepDone{step, took})
}

// digestOf reads to the end.
func digestOf(r io.Reader) (store.Digest, int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return store.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil))), n, err
}

// whyMissed compares in with the last run of the step called name.
func (b *Builder) whyMissed(name string, in inputs) (string, error) {
	last, ok, err := b.store.LastAction(name)
	if err != nil {
		return "", err
	}
	if !ok {
		return "not built before", nil
	}
	var old inputs
	if err := json.Unmarshal(last.Description, &old); err != nil {
		return "", fault.Errorf(fault.Internal, "action cache: description of %s: %w", name, err)
	}
	var changed []string
	for k, v := range in {
		switch was, ok := old[k]; {
		case !ok:
			changed = append(changed, k+" added")
		case was != v:
			changed = append(changed, k+" changed")
		}
	}
	for k := range old {
		if _, ok := in[k]; !ok {
			changed = append(changed, k+" removed")
		}
	}
	if len(changed) == 0 {
		return "its output is no longer in the store", nil
	}
	slices.Sort(changed)
	return strings.Join(changed, ", "), nil
}
