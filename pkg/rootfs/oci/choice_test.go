package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// handMade is an OCI layout or docker archive put together by hand, to have
// what tools would not write.
type handMade map[string][]byte

func (h handMade) blob(data []byte) v1.Hash {
	d, _, err := v1.SHA256(bytes.NewReader(data))
	if err != nil {
		panic(err)
	}
	h["blobs/sha256/"+d.Hex] = data
	return d
}

func (h handMade) json(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// image adds an image of one layer and returns its manifest's descriptor.
func (h handMade) image(arch string, layer []byte, kind types.MediaType, size int64) v1.Descriptor {
	plain := layer
	if z, err := zstd.NewReader(nil); err == nil {
		if b, err := z.DecodeAll(layer, nil); err == nil {
			plain = b
		}
		z.Close()
	}
	diffID, _, err := v1.SHA256(bytes.NewReader(plain))
	if err != nil {
		panic(err)
	}
	config := h.json(v1.ConfigFile{OS: "linux", Architecture: arch, RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}}})
	if size == 0 {
		size = int64(len(layer))
	}
	manifest := h.json(v1.Manifest{
		SchemaVersion: 2, MediaType: types.DockerManifestSchema2,
		Config: v1.Descriptor{MediaType: types.DockerConfigJSON, Digest: h.blob(config), Size: int64(len(config))},
		Layers: []v1.Descriptor{{MediaType: kind, Digest: h.blob(layer), Size: size}},
	})
	return v1.Descriptor{MediaType: types.DockerManifestSchema2, Digest: h.blob(manifest), Size: int64(len(manifest))}
}

func (h handMade) index(descs ...v1.Descriptor) {
	h["index.json"] = h.json(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: descs})
	h["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
}

func (h handMade) dir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	for name, data := range h {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (h handMade) archive(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range h {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// opens opens an image and returns what its file "a" holds.
func opens(t *testing.T, source, platform string) (string, error) {
	t.Helper()
	var want v1.Platform
	if platform != "" {
		var err error
		if want, err = ParsePlatform(platform); err != nil {
			t.Fatal(err)
		}
	}
	i, err := Open(t.Context(), nil, source, want)
	if err != nil {
		return "", err
	}
	defer i.Close()
	tree, err := i.Tree(t.Context(), newSpool(t))
	if err != nil {
		return "", err
	}
	e, _ := tree.Lookup("a")
	var b bytes.Buffer
	err = e.CopyTo(&b)
	return b.String(), err
}

func layerWith(t *testing.T, contents string) []byte {
	return tarOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "a", Linkname: contents}})
}

func compressed(t *testing.T, data []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(data, nil)
}

// skipped is a frame of zstd to be skipped, as pzstd and estargz write them.
const skipped = "\x5e\x2a\x4d\x18\x04\x00\x00\x00abcd"

// Layers are read by what they are, whichever media type tools gave them.
func TestLayerTypes(t *testing.T) {
	plain := layerWith(t, "a")
	z := compressed(t, plain)
	for _, kind := range []types.MediaType{
		"application/vnd.docker.image.rootfs.diff.tar.zstd", "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar", types.OCILayerZStd, types.DockerLayer, types.OCIUncompressedLayer,
	} {
		for name, layer := range map[string][]byte{"plain": plain, "zstd": z, "zstd after a frame to skip": append([]byte(skipped), z...)} {
			h := handMade{}
			h.index(h.image("amd64", layer, kind, 0))
			if name == "zstd after a frame to skip" {
				// The diff ID is that of what comes out.
				h = handMade{}
				d := h.image("amd64", z, kind, 0)
				m, err := v1.ParseManifest(bytes.NewReader(h["blobs/sha256/"+d.Digest.Hex]))
				if err != nil {
					t.Fatal(err)
				}
				m.Layers[0].Digest, m.Layers[0].Size = h.blob(layer), int64(len(layer))
				raw := h.json(m)
				h.index(v1.Descriptor{MediaType: d.MediaType, Digest: h.blob(raw), Size: int64(len(raw))})
			}
			if got, err := opens(t, h.dir(t), ""); err != nil || got != "a" {
				t.Errorf("%s, %s: %q, %v", kind, name, got, err)
			}
		}
	}
	for _, kind := range []types.MediaType{"application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "text/plain", ""} {
		h := handMade{}
		h.index(h.image("amd64", plain, kind, 0))
		if _, err := opens(t, h.dir(t), ""); err == nil || !strings.Contains(err.Error(), "not that of a layer") {
			t.Errorf("%q: %v", kind, err)
		}
	}
	h := handMade{}
	h.index(h.image("amd64", []byte("\xfd7zXZ\x00\x00\x04"), types.DockerLayer, 0))
	if _, err := opens(t, h.dir(t), ""); err == nil || !strings.Contains(err.Error(), "an xz file") || fault.ClassOf(err) != fault.Source {
		t.Errorf("xz: %v", err)
	}
}

// A manifest may claim any size, of a layer, a configuration or a manifest.
func TestSizesOfManifests(t *testing.T) {
	for _, size := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 - 10240, math.MinInt64, -1, 1 << 40, 1, 1 << 30} {
		h := handMade{}
		h.index(h.image("amd64", layerWith(t, "a"), types.OCILayer, size))
		for _, source := range []string{h.dir(t), h.archive(t)} {
			if _, err := opens(t, source, ""); err == nil || fault.ClassOf(err) != fault.Source && fault.ClassOf(err) != fault.Verification {
				t.Errorf("layer of %d bytes: %v", size, err)
			}
		}
		h = handMade{}
		d := h.image("amd64", layerWith(t, "a"), types.OCILayer, 0)
		d.Size = size
		d.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
		h.index(d)
		if _, err := opens(t, h.dir(t), ""); err == nil || fault.ClassOf(err) != fault.Source && fault.ClassOf(err) != fault.Verification {
			t.Errorf("manifest of %d bytes: %v", size, err)
		}
		d.MediaType = types.OCIImageIndex
		h.index(d)
		if _, err := opens(t, h.dir(t), ""); err == nil || fault.ClassOf(err) != fault.Source && fault.ClassOf(err) != fault.Verification {
			t.Errorf("index of %d bytes: %v", size, err)
		}
	}
}

func dockerArchive(t *testing.T, images ...dockerEntry) (string, []string) {
	t.Helper()
	h := handMade{}
	var ids []string
	for n := range images {
		layer := layerWith(t, fmt.Sprint(n+1))
		diffID, _, err := v1.SHA256(bytes.NewReader(layer))
		if err != nil {
			t.Fatal(err)
		}
		arch := "amd64"
		if images[n].Config != "" {
			arch = images[n].Config
		}
		config := h.json(v1.ConfigFile{OS: "linux", Architecture: arch, RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}}})
		id, _, err := v1.SHA256(bytes.NewReader(config))
		if err != nil {
			t.Fatal(err)
		}
		images[n].Config, images[n].Layers = id.Hex+".json", []string{fmt.Sprint(n, "/layer.tar")}
		h[images[n].Config], h[images[n].Layers[0]] = config, layer
		ids = append(ids, id.String())
	}
	h["manifest.json"] = h.json(images)
	return h.archive(t), ids
}

// Of several images in one archive of docker's any can be chosen, in the way
// that the message says.
func TestChooseOfDockerArchive(t *testing.T) {
	file, ids := dockerArchive(t, dockerEntry{RepoTags: []string{"x:1", "x:latest"}}, dockerEntry{RepoTags: []string{"registry.example/y:1"}}, dockerEntry{}, dockerEntry{RepoTags: []string{"docker.io/library/z:3"}, Config: "arm64"})
	for _, tt := range []struct{ choice, platform, want string }{
		{"@x:1", "", "1"}, {"@x", "", "1"}, {"@docker.io/library/x:1", "", "1"}, {"@x:latest", "linux/amd64", "1"},
		{"@registry.example/y:1", "", "2"}, {"@" + ids[2], "", "3"}, {"@" + ids[0], "", "1"}, {"@z:3", "", "4"}, {"", "linux/arm64", "4"},
	} {
		if got, err := opens(t, file+tt.choice, tt.platform); err != nil || got != tt.want {
			t.Errorf("%s %s: %q, %v", tt.choice, tt.platform, got, err)
		}
	}
	// The hint is followed to the letter.
	for _, platform := range []string{"", "linux/amd64"} {
		_, err := opens(t, file, platform)
		if err == nil || fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "registry.example/y:1, "+ids[2]+", x:1") {
			t.Fatalf("%q: %v", platform, err)
		}
		_, source, ok := strings.Cut(fault.HintOf(err), " as ")
		if got, err := opens(t, source, ""); !ok || err != nil || got == "" {
			t.Errorf("hint %q: %q, %v", fault.HintOf(err), got, err)
		}
	}
	for choice, want := range map[string]string{
		"@w:1": "no image w:1 is in it", "@y:1": "no image y:1 is in it", "@sha256:" + strings.Repeat("0", 64): "is in it", "@sha256:12": "wrong number of hex digits", "@": "no reference",
	} {
		if _, err := opens(t, file+choice, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", choice, err, want)
		}
	}
	if _, err := opens(t, file+"@w", ""); !strings.Contains(fault.HintOf(err), "x:1, x:latest") {
		t.Errorf("hint %q", fault.HintOf(err))
	}
	at := filepath.Join(filepath.Dir(file), "with@sign.tar")
	if err := os.Rename(file, at); err != nil {
		t.Fatal(err)
	}
	if got, err := opens(t, at+"@x:1", ""); err != nil || got != "1" {
		t.Errorf("%q, %v", got, err)
	}
	one, _ := dockerArchive(t, dockerEntry{})
	if err := os.Rename(one, at); err != nil {
		t.Fatal(err)
	}
	if got, err := opens(t, at, ""); err != nil || got != "1" {
		t.Errorf("%q, %v", got, err)
	}
}

// A layout's images have names too: the standard annotation, and docker's.
func TestChooseOfLayout(t *testing.T) {
	h := handMade{}
	name := func(n int, annotations map[string]string) v1.Descriptor {
		d := h.image("amd64", layerWith(t, fmt.Sprint(n)), types.OCILayer, 0)
		d.Annotations = annotations
		return d
	}
	h.index(name(1, map[string]string{"org.opencontainers.image.ref.name": "v1"}),
		name(2, map[string]string{"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": "docker.io/library/x:1"}),
		name(3, map[string]string{"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": "docker.io/library/y:1"}))
	for _, source := range []string{h.dir(t), h.archive(t)} {
		for choice, want := range map[string]string{"@v1": "1", "@x:1": "2", "@docker.io/library/y:1": "3"} {
			if got, err := opens(t, source+choice, "linux/amd64"); err != nil || got != want {
				t.Errorf("%s: %q, %v", choice, got, err)
			}
		}
		if _, err := opens(t, source+"@1", ""); err == nil || !strings.Contains(err.Error(), "2 images for linux/amd64") {
			t.Errorf("%v", err)
		}
		_, err := opens(t, source+"@v2", "")
		if err == nil || !strings.Contains(fault.HintOf(err), "docker.io/library/x:1, docker.io/library/y:1, v1") {
			t.Errorf("%v, hint %q", err, fault.HintOf(err))
		}
	}
}

// docker saves the index of an image for many platforms whole, and of the
// images those that were pulled.
func TestPartlyPulled(t *testing.T) {
	amd64, arm64 := &v1.Platform{OS: "linux", Architecture: "amd64"}, &v1.Platform{OS: "linux", Architecture: "arm64"}
	for name, tt := range map[string]struct {
		here, gone *v1.Platform
		lost       func(h handMade, d v1.Descriptor)
	}{
		"with platforms": {amd64, arm64, func(h handMade, d v1.Descriptor) { delete(h, "blobs/sha256/"+d.Digest.Hex) }},
		"without":        {nil, nil, func(h handMade, d v1.Descriptor) { delete(h, "blobs/sha256/"+d.Digest.Hex) }},
		"configuration too": {nil, nil, func(h handMade, d v1.Descriptor) {
			m, err := v1.ParseManifest(bytes.NewReader(h["blobs/sha256/"+d.Digest.Hex]))
			if err != nil {
				t.Fatal(err)
			}
			delete(h, "blobs/sha256/"+m.Config.Digest.Hex)
		}},
	} {
		h := handMade{}
		here, gone := h.image("amd64", layerWith(t, "1"), types.OCILayer, 0), h.image("arm64", layerWith(t, "2"), types.OCILayer, 0)
		here.Platform, gone.Platform = tt.here, tt.gone
		tt.lost(h, gone)
		inner := h.json(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{gone, here}})
		h.index(v1.Descriptor{MediaType: types.OCIImageIndex, Digest: h.blob(inner), Size: int64(len(inner))})
		for _, source := range []string{h.dir(t), h.archive(t)} {
			for _, platform := range []string{"", "linux/amd64"} {
				if got, err := opens(t, source, platform); err != nil || got != "1" {
					t.Errorf("%s, %q: %q, %v", name, platform, got, err)
				}
			}
			_, err := opens(t, source, "linux/arm64")
			if err == nil || fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "linux/arm64") || !strings.Contains(err.Error(), "there is linux/amd64") || strings.Contains(err.Error(), "statat") {
				t.Errorf("%s: %v", name, err)
			}
			if strings.Count(err.Error(), source) != 1 {
				t.Errorf("%s: the source is named more than once: %v", name, err)
			}
		}
	}
	h := handMade{}
	d := h.image("amd64", layerWith(t, "1"), types.OCILayer, 0)
	m, err := v1.ParseManifest(bytes.NewReader(h["blobs/sha256/"+d.Digest.Hex]))
	if err != nil {
		t.Fatal(err)
	}
	delete(h, "blobs/sha256/"+m.Layers[0].Digest.Hex)
	h.index(d)
	source := h.dir(t)
	_, err = opens(t, source, "")
	if err == nil || fault.ClassOf(err) != fault.Source || strings.Count(err.Error(), source) != 1 || !strings.Contains(err.Error(), "is not there") || fault.HintOf(err) == "" {
		t.Errorf("a layer is missing: %v (hint %q)", err, fault.HintOf(err))
	}
	delete(h, "blobs/sha256/"+d.Digest.Hex)
	if _, err = opens(t, h.dir(t), ""); err == nil || !strings.Contains(err.Error(), "holds none of them") {
		t.Errorf("%v", err)
	}
}
