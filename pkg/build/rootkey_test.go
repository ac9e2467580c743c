package build

import (
	"io/fs"
	"reflect"
	"slices"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// TestInstallKey changes every field that the installer is given, to any
// depth, and sees the key of the image change.
func TestInstallKey(t *testing.T) {
	full := func() apk.InstallOptions {
		return apk.InstallOptions{
			World: []string{"a"}, Arch: "x86_64", Repositories: []string{"https://example.invalid/main"}, Epoch: 1,
			Actions: []apk.Action{{Package: "a", Kind: "trigger", Digest: "d", Steps: []apk.Step{
				apk.AddGroup{Name: "g", GID: 1}, apk.AddUser{Name: "u", UID: 1, GID: 1, Gecos: "c", Home: "/h", Shell: "/s"},
				apk.AddMember{User: "u", Group: "g"}, apk.MakeDir{Path: "p", Mode: fs.ModeDir | 0o700, UID: 1, GID: 1},
				apk.MakeLink{Path: "p", Target: "t"}, apk.MakeFile{Path: "p", Mode: 0o600, Data: []byte("d")}, apk.Applets{List: "l", Target: "t"},
			}}},
		}
	}
	keyOf := func(o apk.InstallOptions) string {
		t.Helper()
		in := inputs{}
		in.install(o)
		key, err := in.key()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	before := keyOf(full())
	if again := keyOf(full()); again != before {
		t.Fatal("the same options have two keys")
	}
	options := full()
	v := reflect.ValueOf(&options).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if slices.Contains(notInstalled, name) {
			continue
		}
		if v.Field(i).IsZero() && v.Field(i).Kind() != reflect.Bool {
			t.Errorf("the test gives %s no value: give it one", name)
		}
		mutate(t, name, v.Field(i), func(what string) {
			if keyOf(options) == before {
				t.Errorf("%s can change without the key", what)
			}
		})
	}
	if keyOf(options) != before {
		t.Error("the test did not put everything back")
	}
	options.Spool, options.Progress = &rootfs.Spool{}, func(int, int, apk.Meta) {}
	if keyOf(options) != before {
		t.Error("the key is of where contents are kept")
	}
}

// mutate gives each value in v another one, calls changed, and puts it back.
func mutate(t *testing.T, what string, v reflect.Value, changed func(what string)) {
	t.Helper()
	old := reflect.New(v.Type()).Elem()
	old.Set(v)
	set := func(n reflect.Value) {
		v.Set(n)
		changed(what)
		v.Set(old)
	}
	switch v.Kind() {
	case reflect.String:
		set(reflect.ValueOf("another").Convert(v.Type()))
	case reflect.Bool:
		set(reflect.ValueOf(!v.Bool()).Convert(v.Type()))
	case reflect.Int, reflect.Int64:
		set(reflect.ValueOf(v.Int() + 1).Convert(v.Type()))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		set(reflect.ValueOf(v.Uint() + 1).Convert(v.Type()))
	case reflect.Struct:
		for i := range v.NumField() {
			mutate(t, what+"."+v.Type().Field(i).Name, v.Field(i), changed)
		}
	case reflect.Slice:
		set(reflect.Append(v, reflect.New(v.Type().Elem()).Elem()))
		for i := range v.Len() {
			mutate(t, what+"[]", v.Index(i), changed)
		}
	case reflect.Interface:
		inner := reflect.New(v.Elem().Type()).Elem()
		inner.Set(v.Elem())
		mutate(t, what+"("+inner.Type().Name()+")", inner, func(what string) {
			v.Set(inner)
			changed(what)
			v.Set(old)
		})
	default:
		t.Errorf("%s is a %v, which this test cannot change: teach it", what, v.Kind())
	}
}

func TestPackageIdentity(t *testing.T) {
	s := apk.Selected{Meta: apk.Meta{Name: "a", Version: "1-r0", Checksum: "Q1x", Size: 1}, Tag: "edge"}
	const digest = store.Digest("sha256:1")
	before := packageIdentity(s, digest)
	for what, change := range map[string]func(*apk.Selected, *store.Digest){
		"version":  func(s *apk.Selected, _ *store.Digest) { s.Meta.Version = "2-r0" },
		"checksum": func(s *apk.Selected, _ *store.Digest) { s.Meta.Checksum = "Q1y" },
		"size":     func(s *apk.Selected, _ *store.Digest) { s.Meta.Size = 2 },
		"tag":      func(s *apk.Selected, _ *store.Digest) { s.Tag = "" },
		"bytes":    func(_ *apk.Selected, d *store.Digest) { *d = "sha256:2" },
	} {
		s, d := s, digest
		if change(&s, &d); packageIdentity(s, d) == before {
			t.Errorf("%s can change without the key", what)
		}
	}
}
