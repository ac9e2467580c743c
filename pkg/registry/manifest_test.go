package registry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A manifest is held against the digest it was asked for by, also behind a
// redirect; one asked for by tag is what it is.
func TestManifestDigest(t *testing.T) {
	const good = `{"schemaVersion":2}`
	body := good
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case strings.HasPrefix(r.URL.Path, "/v2/moved/"):
			http.Redirect(w, r, server.URL+"/elsewhere", http.StatusTemporaryRedirect)
		default:
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Write([]byte(body))
		}
	}))
	defer server.Close()
	digest, _, err := v1.SHA256(strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	get := func(ref string) error {
		t.Helper()
		parsed, err := Parse(strings.TrimPrefix(server.URL, "http://") + ref)
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&Client{}).Get(t.Context(), parsed)
		return err
	}
	refs := []string{"/x@" + digest.String(), "/moved@" + digest.String(), "/x:1"}
	for _, ref := range refs {
		if err := get(ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	body = good + " "
	for _, ref := range refs[:2] {
		if err := get(ref); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), digest.String()) {
			t.Errorf("%s with other bytes: %v", ref, err)
		}
	}
	if err := get(refs[2]); err != nil {
		t.Errorf("by tag: %v", err)
	}
}
