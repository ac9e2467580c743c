package attest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/sovereign-build/sovereign/internal/strictjson"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// PayloadType is that of an in-toto statement in a DSSE envelope.
const PayloadType = "application/vnd.in-toto+json"

// envelope is DSSE's: https://github.com/secure-systems-lab/dsse.
type envelope struct {
	PayloadType string              `json:"payloadType"`
	Payload     string              `json:"payload"` // base64
	Signatures  []envelopeSignature `json:"signatures"`
}

type envelopeSignature struct {
	KeyID string `json:"keyid"` // the public key, as minisign writes it
	Sig   string `json:"sig"`   // base64
}

// encoded is what is signed of a payload (DSSE's PAE).
func encoded(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(PayloadType), PayloadType, len(payload), payload)
}

// Envelope puts a statement into a DSSE envelope, signed with the raw Ed25519
// key. What minisign signs is a hash of 64 bytes or begins with one, so that
// neither is ever taken for the other.
func Envelope(payload []byte, key signature.SecretKey) ([]byte, error) {
	secret, err := key.Ed25519()
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(envelope{PayloadType, base64.StdEncoding.EncodeToString(payload),
		[]envelopeSignature{{string(key.Public()), base64.StdEncoding.EncodeToString(ed25519.Sign(secret, encoded(payload)))}}}, "", "  ")
	return append(text, '\n'), err
}

// VerifyEnvelope checks that an envelope holds the payload, and that the key has
// signed it. Errors are of class fault.Verification.
func VerifyEnvelope(file string, text, payload []byte, key signature.Key) error {
	var e envelope
	if _, err := strictjson.Decode(strictjson.File{Name: file, Data: text, What: "envelope"}, &e); err != nil {
		return fault.Errorf(fault.Verification, "%w", err)
	}
	fail := func(format string, args ...any) error {
		return fault.Errorf(fault.Verification, file+": "+format, args...)
	}
	held, err := base64.StdEncoding.DecodeString(e.Payload)
	switch {
	case err != nil:
		return fail("payload: %w", err)
	case e.PayloadType != PayloadType:
		return fail("it holds %q, not %s", e.PayloadType, PayloadType)
	case !bytes.Equal(held, payload):
		return fail("it holds another provenance than the one beside it")
	case len(e.Signatures) != 1:
		return fail("%d signatures are not one", len(e.Signatures))
	case e.Signatures[0].KeyID != string(key):
		return fail("it is signed by %s, and the bundle by %s", e.Signatures[0].KeyID, key)
	}
	public, err := key.Ed25519()
	if err != nil {
		return err
	}
	sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	if err != nil || !ed25519.Verify(public, encoded(payload), sig) {
		return fail("it was not signed by %s, which it names", key)
	}
	return nil
}
