package daemon

import (
	"bytes"
	"context"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

// FuzzHandler makes any request of a sovereignd without a machine: it is
// answered, and nothing stays of it but parts of blobs.
func FuzzHandler(f *testing.F) {
	digest := "sha256:" + strings.Repeat("0", 64)
	for _, seed := range []struct{ method, path, span, body string }{
		{"GET", "/v1/version", "", ""},
		{"GET", "/v1/machines", "", ""},
		{"GET", "/v1/machines/a?guest=false", "", ""},
		{"GET", "/v1/machines/..%2f..%2fetc/console?lines=3", "", ""},
		{"PUT", "/v1/machines/a", "", `{"bundle":{"digest":"` + digest + `","source":"x"},"options":{"memory_mib":1,"ports":{"1":2},"outbound":true}}`},
		{"DELETE", "/v1/machines/a?data=true", "", ""},
		{"POST", "/v1/machines/a/up", "", `{"limit":3}`},
		{"POST", "/v1/machines/a/down", "", `{"grace_ms":1}`},
		{"POST", "/v1/machines/a/restart", "", `{"grace_ms":99999999999999}`},
		{"POST", "/v1/machines/a/update", "", `{"bundle":{"digest":"` + digest + `"},"limit_ms":1}`},
		{"POST", "/v1/machines/a/rollback", "", `{}`},
		{"POST", "/v1/machines/a/balloon", "", `{"size":1}`},
		{"POST", "/v1/machines/a/grow", "", `{"size":-1}`},
		{"POST", "/v1/machines/a/ports/99999999999999999999", "", ""},
		{"POST", "/v1/machines/a/agent", "", ""},
		{"HEAD", "/v1/blobs/" + digest, "", ""},
		{"PUT", "/v1/blobs/" + digest, "bytes 0-2/4", "abc"},
	} {
		f.Add(seed.method, seed.path, seed.span, []byte(seed.body))
	}
	f.Fuzz(func(t *testing.T, method, path, span string, body []byte) {
		dir := t.TempDir()
		r, err := machine.Open(filepath.Join(dir, "state"), machine.WithHypervisor(machinetest.New("dead")))
		if err != nil {
			t.Fatal(err)
		}
		d := &daemon{
			r: r, o: Options{Report: func(string, string) {}}, keepers: map[string]*keeper{}, broken: map[string]string{},
			poked: make(chan struct{}, 1), changing: map[string]bool{}, hub: hub{readers: map[*reader]struct{}{}},
		}
		if d.blobs, err = control.NewBlobs(filepath.Join(r.Dir(), blobsDir), r.FindBlob); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		d.work = ctx
		req, err := http.NewRequestWithContext(ctx, method, "http://x", bytes.NewReader(body))
		if err != nil || !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/events") {
			return
		}
		if req.URL, err = req.URL.Parse(path); err != nil {
			return
		}
		req.Header.Set("Content-Range", span)
		w := httptest.NewRecorder()
		d.handler().ServeHTTP(recorder{w}, req)
		if strings.HasPrefix(path, "/v1/machines/") && method != "GET" && w.Code == http.StatusOK && !strings.Contains(path, "updatable") {
			t.Errorf("%s %s of no machine: %d %s", method, path, w.Code, w.Body)
		}
		err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			in, _ := filepath.Rel(r.Dir(), path)
			if err == nil && e.Type().IsRegular() && !strings.HasPrefix(in, "blobs/") && !strings.HasPrefix(in, "locks/") {
				t.Errorf("%s %s left %s", method, req.URL, in)
			}
			if err == nil && e.IsDir() && strings.HasPrefix(e.Name(), ".") {
				t.Errorf("%s %s left %s", method, req.URL, in)
			}
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	})
}

// recorder takes deadlines, and cannot be upgraded.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetReadDeadline(time.Time) error { return nil }
