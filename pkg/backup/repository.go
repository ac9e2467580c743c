package backup

import (
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Kind is the kind of store that a repository lies in.
type Kind string

// Kinds of stores, by their URLs.
const (
	Directory Kind = "directory" // file:///path, or a path: on the device
	SFTP      Kind = "sftp"      // sftp://USER@HOST[:PORT]/path
	S3        Kind = "s3"        // s3://ACCESS-KEY-ID@HOST[:PORT]/BUCKET[/PREFIX], ?region=, ?tls=no
	WebDAV    Kind = "webdav"    // webdavs://[USER@]HOST[:PORT]/path; webdav:// without TLS
	Server    Kind = "kopia"     // kopia://USER@HOST:PORT?fingerprint=SHA-256 of its certificate
)

// Repository is a place for backups, by its name on a device. Nothing in it is
// secret.
type Repository struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Secrets are what opens a repository. They stay in a file of the device that
// only sovereignd's user may read (its repositories/ in the state directory).
type Secrets struct {
	// Key encrypts the repository, or is the password of a user of a kopia
	// server. Whoever has lost it has lost the backups.
	Key string `json:"key"`
	// Secret is the store's own: a password, or S3's secret access key.
	Secret string `json:"secret,omitempty"`
	// Identity is a private key for SFTP, and KnownHosts the lines of
	// known_hosts(5) with the host's: one that is not there is not trusted.
	Identity   string `json:"identity,omitempty"`
	KnownHosts string `json:"known_hosts,omitempty"`
}

var repositoryForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// Limits of what a repository is given, in bytes.
const (
	maxURL    = 2 << 10
	maxSecret = 32 << 10
)

// CheckName says whether a repository may have that name.
func CheckName(name string) error {
	if repositoryForm.MatchString(name) {
		return nil
	}
	return fault.Errorf(fault.Usage, "%.80q cannot be a repository's name", name).
		Hintf("use lower case letters, digits and dashes, beginning with a letter, at most 32")
}

// Location is a URL of a repository, taken apart.
type Location struct {
	Kind Kind
	Host string // with a port where there is one
	User string // also S3's access key
	Path string // absolute, and clean; for S3 /BUCKET/PREFIX
	// Region is S3's, "" for none. Plain is without TLS.
	Region      string
	Plain       bool
	Fingerprint string // of a kopia server's certificate, hex
}

const urlHint = "see docs/backup.md: /path, sftp://USER@HOST/path, s3://KEY-ID@HOST/BUCKET, webdavs://HOST/path, kopia://USER@HOST:PORT?fingerprint=…"

var fingerprintForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ParseURL takes a URL apart. An error is of class fault.Usage, and has nothing
// of a password that somebody put into the URL.
func ParseURL(text string) (Location, error) {
	var l Location
	bad := func(format string, args ...any) (Location, error) {
		return Location{}, fault.Errorf(fault.Usage, "the repository's URL: "+format, args...).Hintf("%s", urlHint)
	}
	if len(text) > maxURL || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return bad("it is longer than %d bytes, or has control characters", maxURL)
	}
	if strings.HasPrefix(text, "/") {
		if path.Clean(text) == "/" {
			return bad("the root directory is none")
		}
		return Location{Kind: Directory, Path: path.Clean(text)}, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return bad("it is not one")
	}
	if _, has := u.User.Password(); has {
		return bad("a password in it would be seen by anybody; give it by --secret-file")
	}
	l.Host, l.User, l.Path = u.Host, u.User.Username(), path.Clean("/"+u.Path)
	query := u.Query()
	take := func(key string) string {
		v := query.Get(key)
		query.Del(key)
		return v
	}
	switch u.Scheme {
	case "file":
		l.Kind = Directory
		if l.Host != "" || l.User != "" || l.Path == "/" {
			return bad("want file:///path")
		}
	case "sftp":
		l.Kind = SFTP
		if l.User == "" || l.Path == "/" {
			return bad("want sftp://USER@HOST/path")
		}
	case "s3":
		l.Kind, l.Region = S3, take("region")
		if l.User == "" || l.Path == "/" {
			return bad("want s3://ACCESS-KEY-ID@HOST/BUCKET")
		}
		switch v := take("tls"); v {
		case "", "yes":
		case "no":
			l.Plain = true
		default:
			return bad("tls=%.20q is neither yes nor no", v)
		}
	case "webdav", "webdavs":
		l.Kind, l.Plain = WebDAV, u.Scheme == "webdav"
	case "kopia":
		l.Kind, l.Fingerprint = Server, strings.ToLower(strings.ReplaceAll(take("fingerprint"), ":", ""))
		if l.User == "" || !fingerprintForm.MatchString(l.Fingerprint) {
			return bad("want kopia://USER@HOST:PORT?fingerprint=64 hex digits")
		}
	default:
		return bad("%.20q is no kind of store", u.Scheme)
	}
	if l.Kind != Directory && l.Host == "" {
		return bad("it has no host")
	}
	if len(query) > 0 || u.Fragment != "" || u.Opaque != "" {
		return bad("it has more than this kind of store takes")
	}
	return l, nil
}

// Check says what is wrong with secrets, as far as that can be seen.
func (s Secrets) Check(l Location) error {
	for _, v := range []string{s.Key, s.Secret, s.Identity, s.KnownHosts} {
		if len(v) > maxSecret {
			return fault.Errorf(fault.Usage, "a secret of the repository has more than %d bytes", maxSecret)
		}
	}
	switch {
	case len(s.Key) < minKey:
		return fault.Errorf(fault.Usage, "the repository's key has fewer than %d characters", minKey).
			Hintf("leave it out to have one made, which is printed once")
	case l.Kind == SFTP && s.Secret == "" && s.Identity == "":
		return fault.Errorf(fault.Usage, "sftp needs a private key or a password").Hintf("give --identity-file, or --secret-file")
	case l.Kind == SFTP && s.KnownHosts == "":
		return fault.Errorf(fault.Usage, "sftp needs the host's public key, or anybody could be that host").
			Hintf("give --known-hosts FILE; ssh-keyscan %s prints what to compare and put there", l.Host)
	case l.Kind == S3 && s.Secret == "":
		return fault.Errorf(fault.Usage, "S3 needs the secret access key").Hintf("give it by --secret-file")
	}
	return nil
}

// minKey is what a key must have at least, for a person's own; one that is made
// has 160 random bits.
const minKey = 12
