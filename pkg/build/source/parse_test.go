package source

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
)

func TestCompareVersions(t *testing.T) {
	// Each is older than the next (deb-version(7)).
	order := []string{"1.0~~", "1.0~rc1-1", "1.0", "1.0-0", "1.0-1~deb12u1", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0a", "1.0+dfsg", "1.0.1", "1.2.5-3", "1.2.5-3.1~deb13u1", "1.10", "1:0.1", "10:0"}
	for i, a := range order {
		for j, b := range order {
			got, want := CompareVersions(a, b), i-j
			if want > 1 {
				want = 1
			} else if want < -1 {
				want = -1
			}
			// 1.0 and 1.0-0 are equal to dpkg.
			if (a == "1.0" && b == "1.0-0") || (a == "1.0-0" && b == "1.0") {
				want = 0
			}
			if got != want {
				t.Errorf("compare(%s, %s) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestUpstreamVersion(t *testing.T) {
	for debian, want := range map[string]string{
		"1:1.3.dfsg+really1.3.1-1":   "1.3.1",
		"3.5.7-1~deb13u2":            "3.5.7",
		"1:19.1.7-3":                 "19.1.7",
		"20250419":                   "20250419",
		"2026c-0+deb13u1":            "2026c",
		"1.2.5-3.1~deb13u1":          "1.2.5",
		"6.12.107-1":                 "6.12.107",
		"2.41+dfsg1-2":               "2.41",
		"1.0+ds2-1":                  "1.0",
		"1.0~dfsg-1":                 "1.0",
		"20230311+deb12u1":           "20230311",
		"5.0+really4.9+dfsg-1":       "4.9",
		"17.11-0+deb13u1":            "17.11",
		"1:0.20160101~git-1":         "0.20160101~git",
		"really1-1":                  "really1",
		"1.0+repack2-1":              "1.0",
		"1.37.0-6+b1":                "1.37.0",
		"8.5.0+dfsg1+really8.4.1-1~": "8.4.1",
	} {
		if got := upstreamVersion(debian); got != want {
			t.Errorf("upstreamVersion(%s) = %s, want %s", debian, got, want)
		}
	}
}

func TestInSeries(t *testing.T) {
	for _, tt := range []struct {
		version, series string
		want            bool
	}{{"17.12", "17", true}, {"17", "17", true}, {"171.0", "17", false}, {"18.0", "17", false}, {"6.12.107", "6.12", true}, {"6.120", "6.12", false}, {"9", "", true}} {
		if got := inSeries(tt.version, tt.series); got != tt.want {
			t.Errorf("inSeries(%s, %s) = %v", tt.version, tt.series, got)
		}
	}
}

func TestExpandURL(t *testing.T) {
	got := expandURL("https://x/release-${version:-}/icu4c-${version:_}-${version}.tgz", "76.1")
	if got != "https://x/release-76-1/icu4c-76_1-76.1.tgz" {
		t.Error(got)
	}
}

func TestFindArchives(t *testing.T) {
	etc := t.TempDir()
	files := map[string]string{
		"sources.list": `# comment
deb [arch=amd64 signed-by=/k.gpg,/l.gpg] http://one.example/debian/ bookworm main contrib # end
deb-src http://one.example/debian bookworm main
deb http://one.example/debian bookworm-updates main
deb	http://one.example/debian-security	bookworm-security	main
deb http://old.example/debian-security buster/updates main
deb [broken http://x.example/debian bookworm main
deb https://third.example/linux/debian bookworm stable
deb https://third.example/apt cloud-sdk-bookworm main
deb https://third.example/pgdg bookworm-pgdg main
rpm http://x.example/ bookworm main
deb cdrom:[Debian]/ bookworm main
`,
		"sources.list.d/debian.sources": `Types: deb
# a comment inside
URIs: http://two.example/debian mirror+file:/etc/apt/mirrors/debian.list
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
Enabled: no

Types: deb
URIs: http://node.example/node
Suites: nodistro
Components: main
`,
		"sources.list.d/ignored.save": "deb http://save.example/debian bookworm main\n",
	}
	for name, text := range files {
		p := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := findArchives(etc)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, a := range got {
		lines = append(lines, fmt.Sprintf("%s %v %v", a.URI, a.Security, a.Updates))
	}
	want := `http://one.example/debian false true
http://one.example/debian-security true false
http://old.example/debian-security true false
http://two.example/debian false true
mirror+file:/etc/apt/mirrors/debian.list false true`
	if strings.Join(lines, "\n") != want {
		t.Errorf("archives:\n%s\nwant:\n%s", strings.Join(lines, "\n"), want)
	}
	if got[0].SignedBy != "/k.gpg /l.gpg" {
		t.Errorf("signed-by %q", got[0].SignedBy)
	}
	text := got[3].text("deb-src", "sid")
	if !strings.Contains(text, "Suites: sid\n") || !strings.Contains(text, "Signed-By: \n -----BEGIN") || !strings.Contains(text, " -----END PGP PUBLIC KEY BLOCK-----\n") {
		t.Errorf("private stanza:\n%s", text)
	}
}

func TestParseSourcePackages(t *testing.T) {
	f, err := os.Open("testdata/showsrc.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := parseSourcePackages(f)
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	file, ok := got[0].tarball("")
	if !ok || file.Name != "musl_1.2.5.orig.tar.gz" || file.Size != 1080786 || got[0].Directory != "pool/main/m/musl" {
		t.Errorf("%+v, %v", file, ok)
	}
	if file, ok := got[1].tarball(""); !ok || file.Name != "ca-certificates_20250419.tar.xz" {
		t.Errorf("native: %+v, %v", file, ok)
	}
	if file, ok := got[0].tarball("docs"); ok {
		t.Errorf("component: %+v", file)
	}
}

func TestParseAptConfig(t *testing.T) {
	got := parseAptConfig("http='http://proxy.example:3142/'\nhttps='DIRECT'\n\nx\n")
	if len(got) != 1 || got["http"] != "http://proxy.example:3142/" {
		t.Error(got)
	}
}

func TestPoolDirectory(t *testing.T) {
	for name, want := range map[string]string{"musl": "pool/main/m/musl", "libffi": "pool/main/libf/libffi", "lib": "pool/main/l/lib"} {
		if got := poolDirectory("trixie", name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := poolDirectory("trixie-security", "linux"); got != "pool/updates/main/l/linux" {
		t.Errorf("security: %s", got)
	}
}

func TestParseGoReleases(t *testing.T) {
	got := parseGoReleases("golang.org/toolchain v0.0.1-go1.26.8.linux-amd64 v0.0.1-go1.26.11.linux-amd64 v0.0.1-go1.26.12.linux-arm64 v0.0.1-go1.27rc1.linux-amd64 v0.0.1-go1.27.0.linux-amd64 v0.0.1-go1.9.linux-amd64\n")
	if strings.Join(got, " ") != "go1.27.0 go1.26.11 go1.26.8" {
		t.Error(got)
	}
	if got := goSeries("go1.26.8"); got != "go1.26" {
		t.Error(got)
	}
}

func FuzzParseSources(f *testing.F) {
	f.Add("Types: deb\nURIs: http://two.example/debian\nSuites: trixie\nComponents: main\nSigned-By:\n abc\n")
	f.Add("deb [signed-by=/k] http://one.example/debian bookworm main\n")
	f.Add(" x\n")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseSources(strings.NewReader(text))
		b, err2 := parseSourcesList(strings.NewReader(text))
		if err != nil || err2 != nil {
			return
		}
		for _, ar := range append(a, b...) {
			// What is written must read back as the one archive it says.
			again, err := parseSources(strings.NewReader(ar.text("deb-src", "sid")))
			if err != nil || len(again) != 1 || again[0].URI != ar.URI {
				t.Fatalf("%+v became %+v (%v)", ar, again, err)
			}
		}
	})
}

func FuzzParseSourcePackages(f *testing.F) {
	b, err := os.ReadFile("testdata/showsrc.txt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add("Package: a\nVersion: 1\nDirectory: ../../etc\nChecksums-Sha256:\n zz 1 ../x\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseSourcePackages(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, p := range list {
			for _, file := range p.Files {
				if filepath.Base(file.Name) != file.Name || file.Size < 1 || file.Size > lock.MaxSize || file.Digest.Hex() == "" {
					t.Fatalf("%+v", file)
				}
			}
			p.tarball("")
			upstreamVersion(p.Version)
			CompareVersions(p.Version, p.Name)
		}
	})
}

func FuzzParseURIs(f *testing.F) {
	f.Add("'http://x/make_4.3-4.1_amd64.deb' make_4.3-4.1_amd64.deb 395632 SHA256:a1a83af8cbd854af887b72ad196b1f4af58387815e21ced1000253a116a46e2a\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseURIs(strings.NewReader(text))
		for _, u := range list {
			if err == nil && (u.Digest.Hex() == "" || u.Size < 0) {
				t.Fatalf("%+v", u)
			}
		}
	})
}

func FuzzParseGoReleases(f *testing.F) {
	f.Add("golang.org/toolchain v0.0.1-go1.26.8.linux-amd64 v0.0.1-go1.27rc1.linux-amd64\n")
	f.Fuzz(func(t *testing.T, text string) {
		all := parseGoReleases(text)
		for i, v := range all {
			if !goRelease.MatchString(v) || i > 0 && compareGo(all[i-1], v) < 0 {
				t.Fatalf("%q of %q", all, text)
			}
		}
	})
}

func FuzzParseGoSum(f *testing.F) {
	f.Add("golang.org/x/mod v0.42.0 h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\ngolang.org/x/mod v0.42.0/go.mod h1:x=\n")
	f.Fuzz(func(t *testing.T, text string) {
		sums, err := parseGoSum(strings.NewReader(text))
		if err == nil && len(sums) > strings.Count(text, "\n")+1 {
			t.Fatal("more sums than lines")
		}
	})
}

func FuzzParseDownloads(f *testing.F) {
	f.Add([]byte(`{"Path":"a","Version":"v1.0.0","Zip":"/x","Sum":"h1:x"}{"Error":"404"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := parseDownloads(b); err != nil && list != nil {
			t.Fatal("a list with an error")
		}
	})
}
