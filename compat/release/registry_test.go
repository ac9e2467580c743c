package release

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/sovereign-build/sovereign/internal/bundletest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/artifact"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

// crane and oras read a release that was pushed, in a registry that lists
// referrers and in one that does not.
func TestRegistry(t *testing.T) {
	for name, listed := range map[string]bool{"referrers": true, "fallback tag": false} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(listed)))
			t.Cleanup(server.Close)
			ref := strings.TrimPrefix(server.URL, "http://") + "/team/sql:1.0"
			key := bundletest.NewKey(t)
			dirs := map[string]string{}
			for _, arch := range []string{"amd64", "arm64"} {
				dir := filepath.Join(t.TempDir(), "sql-"+arch)
				bundletest.Make(t, dir, bundletest.Options{Arch: arch, Key: key.Public()})
				bundletest.Sign(t, dir, key, "1.0", 5, nil)
				dirs[arch] = dir
			}
			pushed, err := artifact.PushIndex(t.Context(), &registry.Client{}, []string{dirs["amd64"], dirs["arm64"]}, "1.0", ref)
			if err != nil {
				t.Fatal(err)
			}

			// crane
			if d, err := crane.Digest(ref, crane.Insecure); err != nil || d != pushed.DigestStr() {
				t.Errorf("crane digest: %s, %v; pushed %s", d, err, pushed)
			}
			text, err := crane.Manifest(ref, crane.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			var index ocispec.Index
			if err := json.Unmarshal(text, &index); err != nil || len(index.Manifests) != 2 || index.Annotations[ocispec.AnnotationVersion] != "1.0" {
				t.Fatalf("crane manifest: %v\n%s", err, text)
			}

			// oras
			repo, err := remote.NewRepository(strings.TrimSuffix(ref, ":1.0"))
			if err != nil {
				t.Fatal(err)
			}
			repo.PlainHTTP = true
			store := memory.New()
			root, err := oras.Copy(t.Context(), repo, "1.0", store, "1.0", oras.DefaultCopyOptions)
			if err != nil || root.Digest.String() != pushed.DigestStr() {
				t.Fatalf("oras copy: %v, %v", root.Digest, err)
			}
			for _, m := range index.Manifests {
				kinds := map[string]ocispec.Descriptor{}
				err := repo.Referrers(t.Context(), m, "", func(all []ocispec.Descriptor) error {
					for _, d := range all {
						kinds[d.ArtifactType] = d
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, kind := range []string{artifact.SignatureType, artifact.SPDXType, artifact.CycloneDXType, artifact.StatementType, artifact.EnvelopeType} {
					if _, ok := kinds[kind]; !ok {
						t.Errorf("%s: oras finds no %s", m.Platform.Architecture, kind)
					}
				}
				_, text, err := oras.FetchBytes(t.Context(), repo, kinds[artifact.SPDXType].Digest.String(), oras.DefaultFetchBytesOptions)
				if err != nil {
					t.Fatal(err)
				}
				var manifest ocispec.Manifest
				if err := json.Unmarshal(text, &manifest); err != nil || manifest.Subject == nil || manifest.Subject.Digest != m.Digest {
					t.Fatalf("subject: %v\n%s", err, text)
				}
				blob, err := repo.Blobs().Fetch(t.Context(), manifest.Layers[0])
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(blob)
				blob.Close()
				want, readErr := os.ReadFile(filepath.Join(dirs[m.Platform.Architecture], bundle.SPDXFile))
				if err != nil || readErr != nil || !bytes.Equal(got, want) {
					t.Errorf("the bill by oras is another one: %v, %v", err, readErr)
				}
			}
		})
	}
}
