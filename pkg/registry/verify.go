package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Verify returns a reader of r's bytes that gives io.EOF only when they are
// d.Size bytes of digest d.Digest, which must be a SHA-256. Anything else ends
// in an error of class fault.Verification that names what, or in r's own
// error.
func Verify(r io.Reader, what string, d v1.Descriptor) io.Reader {
	return &verifier{r: r, what: what, want: d, hash: sha256.New()}
}

type verifier struct {
	r    io.Reader
	what string
	want v1.Descriptor
	hash hash.Hash
	n    int64
	err  error
}

// Read implements io.Reader.
func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	// One byte more than there should be is enough to know. The size comes
	// from outside and may be any number: it is not added to.
	if left := v.want.Size - v.n; left < int64(len(p)) {
		p = p[:max(left, 0)+1]
	}
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	switch {
	case v.n > v.want.Size:
		err = fault.Errorf(fault.Verification, "%s: longer than the %d bytes it should have", v.what, v.want.Size)
	case err == nil:
		return n, nil
	case v.n < v.want.Size && errors.Is(err, io.EOF):
		err = fault.Errorf(fault.Verification, "%s: ends after %d of %d bytes", v.what, v.n, v.want.Size)
	case v.n == v.want.Size && !v.matches():
		// The library may have said so already, in an error without a type.
		err = fault.Errorf(fault.Verification, "%s: wrong digest: expected %s, got sha256:%s", v.what, v.want.Digest, v.got())
	}
	v.err = err
	return n, err
}

func (v *verifier) got() string { return hex.EncodeToString(v.hash.Sum(nil)) }

func (v *verifier) matches() bool {
	return v.want.Digest.Algorithm == "sha256" && v.want.Digest.Hex == v.got()
}
