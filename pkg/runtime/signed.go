package runtime

import (
	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// signedBundle names the bundle in dir, whose blobs were sent, in a request: with
// its signature, where it has one.
func signedBundle(dir, digest string) (requests.Bundle, error) {
	text, err := bundle.Signature(dir)
	return requests.Bundle{Digest: digest, Source: dir, Signature: string(text)}, err
}
