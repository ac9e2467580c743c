package build

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// TestKeyring holds what each key may sign against what the recipe says.
func TestKeyring(t *testing.T) {
	dir := t.TempDir()
	keys := map[string]*apk.SigningKey{}
	for _, name := range []string{"all", "main", "own", "given", "machine"} {
		// Not apk.GenerateKey, whose 4096 bits take their time.
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name+".rsa")
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}), 0o600); err != nil {
			t.Fatal(err)
		}
		if keys[name], err = apk.LoadKey(path); err != nil {
			t.Fatal(err)
		}
		public, err := keys[name].PublicPEM()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".pub", public, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b := &Builder{
		opts: &options{repositories: []string{"@edge https://given.example", "/given"}, keys: []string{filepath.Join(dir, "given.rsa.pub")}},
		recipe: &recipe.Recipe{
			Dir:          dir,
			Repositories: []string{"https://main.example", "@t https://other.example", "own", "built"},
			Keys:         []string{"all.rsa.pub"},
			Trust: map[string]recipe.Trust{
				"https://main.example": {Keys: []string{"main.rsa.pub"}},
				"own":                  {Keys: []string{"own.rsa.pub", "main.rsa.pub"}, SHA1: "refuse"},
			},
		},
		key: keys["machine"],
	}
	all, err := b.keyring()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ repository, keys, sha1 string }{
		{"https://main.example", "main", "main"},
		{"https://other.example", "all", "all"},
		{filepath.Join(dir, "own"), "main own", ""},
		{filepath.Join(dir, "built"), "all machine", "all"},
		{"https://given.example", "all given", "all given"},
		{"/given", "all given machine", "all given"},
		{"/the/ports", "all machine", "all"},
		{"https://elsewhere.example", "all", "all"},
		{"https://main.example/", "all", "all"},
	} {
		of := all.For(tt.repository)
		counting := func(h crypto.Hash) string {
			var names []string
			for name, key := range of {
				if key.Counts("", h) {
					names = append(names, strings.TrimSuffix(name, ".rsa.pub"))
				}
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		if got := counting(crypto.SHA256); got != tt.keys {
			t.Errorf("%s: %q sign over SHA-256, want %q", tt.repository, got, tt.keys)
		}
		if got := counting(crypto.SHA1); got != tt.sha1 {
			t.Errorf("%s: %q sign over SHA-1, want %q", tt.repository, got, tt.sha1)
		}
	}
	// Without trust it is as it always was, but for this machine's key in what
	// comes over the network.
	b.recipe.Trust = nil
	if all, err = b.keyring(); err != nil {
		t.Fatal(err)
	}
	for repository, want := range map[string]string{"https://main.example": "all.rsa.pub", filepath.Join(dir, "own"): "all.rsa.pub machine.rsa.pub"} {
		if got := strings.Join(slices.Sorted(maps.Keys(all.For(repository))), " "); got != want {
			t.Errorf("%s: %s, want %s", repository, got, want)
		}
	}
	// Another key of this machine's name is no other way in.
	b.recipe.Keys = []string{filepath.Join("sub", keys["machine"].Name)}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	public, err := keys["all"].PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, b.recipe.Keys[0]), public, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.keyring(); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "two keys have the name machine.rsa.pub") {
		t.Errorf("got %v", err)
	}
}
