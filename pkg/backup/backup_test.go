package backup

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestParseURL(t *testing.T) {
	fp := strings.Repeat("ab", 32)
	for text, want := range map[string]Location{
		"/mnt/x/../backups":                            {Kind: Directory, Path: "/mnt/backups"},
		"file:///mnt/backups":                          {Kind: Directory, Path: "/mnt/backups"},
		"sftp://me@nas/b":                              {Kind: SFTP, Host: "nas", User: "me", Path: "/b"},
		"sftp://me@nas:2022/b/c":                       {Kind: SFTP, Host: "nas:2022", User: "me", Path: "/b/c"},
		"s3://ID@s3.example.org/bucket/a?region=eu":    {Kind: S3, Host: "s3.example.org", User: "ID", Path: "/bucket/a", Region: "eu"},
		"s3://ID@127.0.0.1:9000/bucket?tls=no":         {Kind: S3, Host: "127.0.0.1:9000", User: "ID", Path: "/bucket", Plain: true},
		"webdavs://me@cloud/dav":                       {Kind: WebDAV, Host: "cloud", User: "me", Path: "/dav"},
		"webdav://127.0.0.1:80":                        {Kind: WebDAV, Host: "127.0.0.1:80", Path: "/", Plain: true},
		"kopia://me%40phone@s:51515?fingerprint=" + fp: {Kind: Server, Host: "s:51515", User: "me@phone", Path: "/", Fingerprint: fp},
	} {
		got, err := ParseURL(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "/", "backups", "file://host/x", "ftp://x/y", "sftp://nas/b", "sftp://me@nas", "s3://host/bucket", "s3://ID@host", "s3://ID@host/b?tls=maybe",
		"s3://ID@host/b?x=1", "kopia://me@s:1", "kopia://me@s:1?fingerprint=12", "webdavs:///x", "sftp://me:hunter2@nas/b", "/a\nb", "/" + strings.Repeat("x", maxURL), "sftp://me@nas/b#c",
	} {
		_, err := ParseURL(text)
		if fault.ClassOf(err) != fault.Usage || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("sftp://me@nas:2022/b")
	f.Add("s3://ID@h/b?tls=no")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseURL(text)
		if err != nil {
			if fault.ClassOf(err) != fault.Usage {
				t.Errorf("class %v", fault.ClassOf(err))
			}
			return
		}
		if l.Kind == "" || !strings.HasPrefix(l.Path, "/") || strings.Contains(l.Path, "..") && strings.Contains("/"+l.Path+"/", "/../") {
			t.Errorf("%q: %+v", text, l)
		}
	})
}

func TestSecretsCheck(t *testing.T) {
	key := "a long enough key"
	for name, test := range map[string]struct {
		l  Location
		s  Secrets
		ok bool
	}{
		"a short key":          {Location{Kind: Directory}, Secrets{Key: "short"}, false},
		"a directory":          {Location{Kind: Directory}, Secrets{Key: key}, true},
		"sftp, any host":       {Location{Kind: SFTP}, Secrets{Key: key, Identity: "x"}, false},
		"sftp, nothing":        {Location{Kind: SFTP}, Secrets{Key: key, KnownHosts: "x"}, false},
		"sftp":                 {Location{Kind: SFTP}, Secrets{Key: key, Identity: "x", KnownHosts: "x"}, true},
		"s3 without a secret":  {Location{Kind: S3}, Secrets{Key: key}, false},
		"something very large": {Location{Kind: Directory}, Secrets{Key: key, Secret: strings.Repeat("x", maxSecret+1)}, false},
	} {
		if err := test.s.Check(test.l); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeepAndIntervals(t *testing.T) {
	k, err := ParseKeep("latest=3,daily=7,weekly=5")
	if err != nil || k != (Keep{Latest: 3, Daily: 7, Weekly: 5}) || k.String() != "latest=3,daily=7,weekly=5" {
		t.Errorf("%+v, %v", k, err)
	}
	if k, err := ParseKeep("all"); err != nil || !k.All() || k.String() != "all" {
		t.Errorf("%+v, %v", k, err)
	}
	for _, text := range []string{"", "daily", "daily=0", "daily=-1", "daily=7;weekly=1", "fortnightly=1", "daily=99999"} {
		if _, err := ParseKeep(text); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]time.Duration{"never": 0, "hourly": time.Hour, "6h": 6 * time.Hour, "2d": 48 * time.Hour, "weekly": 168 * time.Hour, "90m": 90 * time.Minute} {
		if got, err := ParseInterval(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0s", "10s", "-6h", "1000d", "x", "1.5d"} {
		if _, err := ParseInterval(text); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := (Policy{Repository: "home", EveryS: 1}).Check(); fault.ClassOf(err) != fault.Usage {
		t.Errorf("every second: %v", err)
	}
}

func TestParseManifest(t *testing.T) {
	sum := strings.Repeat("a", 64)
	good := `{"schema":1,"machine":"sql","bundle":{"digest":"sha256:` + sum + `"},"disk":{"size":100,"pieces":[{"offset":0,"length":40,"sha256":"` + sum + `"},{"offset":60,"length":40,"sha256":"` + sum + `"}]}}`
	m, err := Parse([]byte(good))
	if err != nil || m.Disk.Used() != 80 {
		t.Fatalf("%+v, %v", m, err)
	}
	for name, change := range map[string][2]string{
		"newer":        {`"schema":1`, `"schema":2`},
		"overlapping":  {`"offset":60`, `"offset":30`},
		"beyond":       {`"offset":60`, `"offset":61`},
		"negative":     {`"offset":0`, `"offset":-1`},
		"empty":        {`"length":40`, `"length":0`},
		"huge":         {`"size":100`, `"size":99999999999999999`},
		"no sum":       {sum + `"},{`, `x"},{`},
		"another name": {`"machine":"sql"`, `"machine":"../sql"`},
		"no digest":    {`"digest":"sha256:`, `"digest":"md5:`},
		"not JSON":     {`{"schema"`, `{schema`},
	} {
		if _, err := Parse([]byte(strings.Replace(good, change[0], change[1], 1))); fault.ClassOf(err) != fault.Verification {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	sum := strings.Repeat("a", 64)
	f.Add([]byte(`{"schema":1,"machine":"sql","bundle":{"digest":"sha256:` + sum + `"},"disk":{"size":100,"pieces":[{"offset":0,"length":40,"sha256":"` + sum + `"}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse(text)
		if err != nil {
			if fault.ClassOf(err) != fault.Verification {
				t.Errorf("class %v: %v", fault.ClassOf(err), err)
			}
			return
		}
		if used := m.Disk.Used(); used < 0 || used > m.Disk.Size {
			t.Errorf("%d of %d bytes are used", used, m.Disk.Size)
		}
	})
}

func FuzzParseKeep(f *testing.F) {
	f.Add("latest=3,daily=7")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseKeep(text)
		if err != nil {
			return
		}
		if again, err := ParseKeep(k.String()); err != nil || again != k || k.Check() != nil {
			t.Errorf("%q: %+v, then %+v, %v", text, k, again, err)
		}
	})
}

func TestParseWhen(t *testing.T) {
	for text, want := range map[string][]Condition{"always": nil, "charging": {Charging}, "unmetered,charging,charging": {Charging, Unmetered}} {
		if got, err := ParseWhen(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "sunny", "charging,", "charging, unmetered"} {
		if got, err := ParseWhen(text); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	p := Policy{Repository: "home", When: []Condition{"sunny"}}
	if err := p.Check(); fault.ClassOf(err) != fault.Usage {
		t.Errorf("%v", err)
	}
}
