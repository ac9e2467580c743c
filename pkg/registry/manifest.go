package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"regexp"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// manifestByDigest is the path of a request for a manifest by its digest.
var manifestByDigest = regexp.MustCompile(`^/v2/(.+)/manifests/sha256:([0-9a-f]{64})$`)

// verifyManifest makes the body of an answer to a request for a manifest by
// digest end with an error of class fault.Verification where it has another.
// The library compares them too, and says so in an error without a type. The
// digest is that of the first request, wherever it was redirected to.
func verifyManifest(resp *http.Response) {
	first := resp.Request
	for first.Response != nil {
		first = first.Response.Request
	}
	m := manifestByDigest.FindStringSubmatch(first.URL.Path)
	if m == nil || first.Method != http.MethodGet || resp.StatusCode != http.StatusOK ||
		// Its digest is not that of its bytes; nothing here takes one.
		types.MediaType(resp.Header.Get("Content-Type")) == types.DockerManifestSchema1Signed {
		return
	}
	resp.Body = &manifestBody{ReadCloser: resp.Body, name: first.URL.Host + "/" + m[1], want: m[2], hash: sha256.New()}
}

type manifestBody struct {
	io.ReadCloser
	name, want string
	hash       hash.Hash
}

// Read implements io.Reader.
func (b *manifestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.hash.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(b.hash.Sum(nil)); got != b.want {
			err = fault.Errorf(fault.Verification, "%s: wrong digest of a manifest: expected sha256:%s, got sha256:%s", b.name, b.want, got)
		}
	}
	return n, err
}
