package signature

import (
	"bytes"
	"errors"
	"testing"
)

func TestNote(t *testing.T) {
	const kind = "sovereign-sample-v1"
	a, b := newKey(t), newKey(t)
	text := []byte("what is signed\n")
	note, err := SignNote(a, kind, text)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := SignNote(a, kind, text); err != nil || !bytes.Equal(again, note) {
		t.Errorf("the second signature is another one: %v", err)
	}
	if key, err := VerifyNote(note, kind, text, b.Public(), a.Public()); err != nil || key != a.Public() {
		t.Errorf("%s, %v", key, err)
	}
	var untrusted *UntrustedError
	_, err = VerifyNote(note, kind, text, b.Public())
	refused(t, "another key", err, "which is not trusted here")
	if !errors.As(err, &untrusted) || untrusted.Key != a.Public() {
		t.Errorf("another key: %v", err)
	}
	other, err := SignNote(b, kind, text)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		signature []byte
		kind      string
		text      []byte
		want      string
	}{
		"none":         {nil, kind, text, "it is not signed"},
		"another text": {note, kind, []byte("what is not"), "was not made of this text by the key"},
		"another kind": {note, "sovereign-other-v1", text, "a text of sovereign-other-v1 is wanted"},
		"cut off":      {note[:len(note)-1], kind, text, "it is cut off"},
		"two":          {append(bytes.Clone(note), other...), kind, text, "there are 2 signatures"},
		// Somebody's good signature under the name of a trusted key.
		"another's name": {bytes.ReplaceAll(other, []byte(b.Public()), []byte(a.Public())), kind, text, "was not made of this text by the key"},
		"no name":        {bytes.ReplaceAll(note, []byte(a.Public()), []byte("RW")), kind, text, "does not say by which key"},
	} {
		_, err := VerifyNote(c.signature, c.kind, c.text, a.Public())
		refused(t, what, err, c.want)
	}
	// A bundle's signature is no note, and a note none of a bundle.
	_, err = VerifyNote(signed(t, a, "m", 5, nil), kind, []byte("m"), a.Public())
	refused(t, "a bundle's", err, "a text of "+kind+" is wanted")
	_, err = Verify(note, text)
	refused(t, "as a bundle's", err, "its statement")

	got, rest := CutNote(append(bytes.Clone(note), text...))
	if !bytes.Equal(got, note) || !bytes.Equal(rest, text) {
		t.Errorf("cut to %q and %q", got, rest)
	}
	if got, rest := CutNote(text); got != nil || !bytes.Equal(rest, text) {
		t.Errorf("without a signature: %q and %q", got, rest)
	}
}
