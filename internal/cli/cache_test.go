package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// The flags and the user's file say the same things, and what is wrong with
// them is said before anything is built.
func TestSharedCacheFlags(t *testing.T) {
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	key, err := signature.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := key.File("")
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Public().File()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyFile, trust := file("ci.key", secret), file("ci.key.pub", public)
	s := &session{CLI: &CLI{}}
	complete := func(c SharedCache, offline bool) (*SharedCache, error) {
		err := c.complete(s, offline)
		return &c, err
	}
	if c, err := complete(SharedCache{}, true); err != nil || len(c.Places)+len(c.keys) != 0 {
		t.Errorf("nothing: %+v, %v", c, err)
	}
	c, err := complete(SharedCache{Places: []string{"oci://registry.example/a", dir}, Trust: []string{trust}, Push: dir, KeyFile: keyFile}, false)
	if err != nil || len(c.keys) != 1 || c.key.Public() != key.Public() {
		t.Errorf("%+v, %v", c, err)
	}
	if o, err := c.options(); err != nil || len(o) != 4 {
		t.Errorf("%d options, %v", len(o), err)
	}
	s.Env = []string{keyVariable + "=" + string(secret)}
	if c, err := complete(SharedCache{Push: "oci://registry.example/a"}, false); err != nil || c.key.Public() != key.Public() {
		t.Errorf("by the environment: %v", err)
	}
	s.Env = nil

	if err := os.MkdirAll(filepath.Join(config, "sovereign"), 0o700); err != nil {
		t.Fatal(err)
	}
	user := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(config, "sovereign", cacheFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	user("places: [oci://registry.example/cache, /srv/cache]\nkeys: [" + string(key.Public()) + "]\n")
	if c, err := complete(SharedCache{Places: []string{dir}}, true); err != nil || len(c.keys) != 1 || strings.Join(c.Places, " ") != dir+" oci://registry.example/cache /srv/cache" {
		t.Errorf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"places: [cache]\n":                          "1:10: \"cache\" is neither oci://HOST/NAME nor an absolute directory",
		"places: [oci://registry.example/cache:1]\n": "names a tag or a digest",
		"keys: [RWnothing]\n":                        "keys[0]",
		"keys: \"\"\n":                               "1:7",
		"place: [/srv/cache]\n":                      "place",
	} {
		user(text)
		if _, err := complete(SharedCache{}, false); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	user("places: []\n")
	for want, c := range map[string]SharedCache{
		"that is missing":                {KeyFile: keyFile},
		"needs a key to sign with":       {Push: dir},
		"exclude each other":             {Push: "oci://registry.example/a", KeyFile: keyFile},
		"names a tag":                    {Places: []string{"oci://registry.example/a:1"}},
		"neither oci://HOST/NAME nor":    {Places: []string{"https://registry.example/a"}},
		"not the public key of minisign": {Trust: []string{keyFile}},
		"cache without a name":           {Places: []string{""}, Push: dir, KeyFile: keyFile},
	} {
		if _, err := complete(c, true); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
