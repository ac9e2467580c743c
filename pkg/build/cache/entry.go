package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Schema is the version of an entry's form.
const Schema = 1

// MaxEntry bounds a signed entry, in bytes; the largest real one has 20 KiB.
const MaxEntry = 1 << 20

const (
	// kind is that of an entry's signature.
	kind = "sovereign-step-v1"
	// maxOutputs is the most outputs of a step, maxOutput the largest in bytes,
	// and maxName the longest name of one or of a step.
	maxOutputs = 1024
	maxOutput  = 8 << 30
	maxName    = 256
)

// Entry is what a step made from what.
type Entry struct {
	Schema int `json:"schema"`
	// Key is the SHA-256 of Inputs as JSON, in 64 hex digits.
	Key string `json:"key"`
	// Step is the step's name without versions: "port zlib amd64".
	Step string `json:"step"`
	// Inputs are digests, versions and short texts by name: all that the outputs
	// depend on.
	Inputs map[string]string `json:"inputs"`
	// Outputs are by name.
	Outputs map[string]Output `json:"outputs"`
}

// Output is one file that a step left.
type Output struct {
	Digest store.Digest `json:"digest"`
	Size   int64        `json:"size"` // bytes
}

// Bytes is the size of all outputs, where those of the same bytes count once.
func (e *Entry) Bytes() int64 {
	sizes := map[store.Digest]int64{}
	for _, o := range e.Outputs {
		sizes[o.Digest] = o.Size
	}
	var n int64
	for _, size := range sizes {
		n += size
	}
	return n
}

// action is the entry as a store keeps it.
func (e *Entry) action(by signature.Key) (store.Action, error) {
	text, err := json.Marshal(e.Inputs)
	if err != nil {
		return store.Action{}, err
	}
	a := store.Action{Name: e.Step, Description: text, Outputs: map[string]store.Digest{}, Signer: string(by)}
	for name, o := range e.Outputs {
		a.Outputs[name] = o.Digest
	}
	return a, nil
}

var keyForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check says what is wrong with an entry.
func (e *Entry) check() error {
	text, err := json.Marshal(e.Inputs)
	switch {
	case err != nil:
		return err
	case e.Schema != Schema:
		return fmt.Errorf("schema %d is not %d", e.Schema, Schema)
	case !keyForm.MatchString(e.Key) || store.Key(text) != e.Key:
		return fmt.Errorf("the key %q is not that of its inputs", e.Key)
	case !named(e.Step):
		return fmt.Errorf("step %q is no name of one", e.Step)
	case len(e.Outputs) == 0 || len(e.Outputs) > maxOutputs:
		return fmt.Errorf("%d outputs are not from 1 to %d", len(e.Outputs), maxOutputs)
	}
	sizes := map[store.Digest]int64{}
	for name, o := range e.Outputs {
		if _, err := store.ParseDigest(o.Digest.String()); err != nil || !named(name) {
			return fmt.Errorf("output %q has the digest %q", name, o.Digest)
		}
		if o.Size < 0 || o.Size > maxOutput {
			return fmt.Errorf("output %q of %d bytes is larger than %d", name, o.Size, int64(maxOutput))
		}
		if size, ok := sizes[o.Digest]; ok && size != o.Size {
			return fmt.Errorf("output %q has %d bytes, and another of its digest %d", name, o.Size, size)
		}
		sizes[o.Digest] = o.Size
	}
	return nil
}

func named(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Sign checks an entry and writes it behind its signature. The same entry and
// key give the same bytes.
func (e *Entry) Sign(key signature.SecretKey) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fault.Errorf(fault.Internal, "cache: entry of %s: %w", e.Step, err)
	}
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	text = append(text, '\n')
	signed, err := signature.SignNote(key, kind, text)
	return append(signed, text...), err
}

// Parse reads what Sign wrote, for a step's key, and says who signed it. Errors
// are of class fault.Verification.
func Parse(signed []byte, key string, trusted []signature.Key) (*Entry, signature.Key, error) {
	if len(signed) > MaxEntry {
		return nil, "", fault.Errorf(fault.Verification, "its entry is larger than %d bytes", MaxEntry)
	}
	signed, text := signature.CutNote(signed)
	by, err := signature.VerifyNote(signed, kind, text, trusted...)
	if err != nil {
		return nil, "", err
	}
	// From here on only the owner of a trusted key can be wrong.
	var e Entry
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, by, fault.Errorf(fault.Verification, "its entry, signed by %s: %w", by, err)
	}
	if err := e.check(); err != nil {
		return nil, by, fault.Errorf(fault.Verification, "its entry, signed by %s: %w", by, err)
	}
	if again, err := json.Marshal(&e); err != nil || !slices.Equal(append(again, '\n'), text) {
		return nil, by, fault.Errorf(fault.Verification, "its entry, signed by %s, is not written the one way that there is", by)
	}
	if e.Key != key {
		return nil, by, fault.Errorf(fault.Verification, "its entry is of another step or other inputs: %s with the key %.12s…", e.Step, e.Key)
	}
	return &e, by, nil
}
