package apk

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Repository is an opened repository: its verified index for one architecture
// and where its packages are.
type Repository struct {
	// Location is the directory or URL as it was given; packages are in
	// Location/Arch/NAME-VERSION.apk.
	Location string
	// Tag is that of a pinned repository, which serves only worlds that ask
	// for it: "name@tag".
	Tag      string
	Arch     string
	Packages []Meta

	src source
}

// source gives files of Location/Arch.
type source struct {
	dir     string // set for a directory
	url     string // set for a URL
	cache   string
	client  *http.Client
	offline bool
	file    func(Meta) (string, error) // set for NewRepository
}

// NewRepository makes a repository of packages that are known already, and
// trusted as a verified index is. File returns the path of a package's file on
// this machine; one without a signature of its own will do. Location is what
// Selected and errors call it.
//
// The size in a package's Meta is what apk's database in an image says of it,
// whatever the file's is.
func NewRepository(location, tag, arch string, packages []Meta, file func(Meta) (path string, err error)) Repository {
	return Repository{Location: location, Tag: tag, Arch: arch, Packages: packages, src: source{file: file}}
}

// RepositoryOption changes how a repository is opened.
type RepositoryOption func(*source)

// WithCache keeps what comes from URLs in a directory: packages under their
// checksum, the last index of each repository.
func WithCache(dir string) RepositoryOption { return func(s *source) { s.cache = dir } }

// WithClient uses c for URLs; http.DefaultClient otherwise.
func WithClient(c *http.Client) RepositoryOption { return func(s *source) { s.client = c } }

// Offline uses only the cache for URLs.
func Offline() RepositoryOption { return func(s *source) { s.offline = true } }

// OpenRepository reads and verifies LOCATION/ARCH/APKINDEX.tar.gz. The
// location is a directory or an http or https URL, with a tag before it as in
// etc/apk/repositories for a pinned repository ("@edge https://…"); arch is
// apk's name of the architecture, x86_64 or aarch64. Of the keys those count
// that count for the location.
func OpenRepository(ctx context.Context, location, arch string, keys Keyring, opts ...RepositoryOption) (Repository, error) {
	s := source{client: http.DefaultClient}
	for _, opt := range opts {
		opt(&s)
	}
	if !validPackageName(arch) {
		return Repository{}, fault.Errorf(fault.Usage, "repository %s: %q is not an architecture", location, arch).Hintf("use x86_64 or aarch64")
	}
	tag := ""
	if rest, ok := strings.CutPrefix(location, "@"); ok {
		if tag, location, ok = strings.Cut(rest, " "); !ok || !validPackageName(tag) {
			return Repository{}, fault.Errorf(fault.Usage, "repository @%s: not @TAG LOCATION", rest).Hintf("write a tag of letters and digits, a space and the location")
		}
		location = strings.TrimSpace(location)
	}
	r := Repository{Location: location, Tag: tag, Arch: arch}
	switch u, err := url.Parse(location); {
	case err == nil && (u.Scheme == "http" || u.Scheme == "https"):
		s.url = strings.TrimRight(location, "/") + "/" + arch
	case err == nil && u.Scheme != "" && strings.Contains(location, "://"):
		return r, fault.Errorf(fault.Usage, "repository %s: scheme %s is not supported", location, u.Scheme).Hintf("give a directory or an http(s) URL")
	default:
		s.dir = filepath.Join(location, arch)
	}
	r.src = s
	path, remove, err := s.index(ctx)
	if err != nil {
		return r, fmt.Errorf("repository %s: %w", location, err)
	}
	defer remove()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, fault.Errorf(fault.Source, "repository %s: no %s/%s", location, arch, IndexName).Hintf("check the location; packages of %s are expected in its subdirectory %s", arch, arch)
	}
	if err != nil {
		return r, fmt.Errorf("repository %s: %w", location, err)
	}
	defer f.Close()
	r.Packages, err = readIndex(filepath.ToSlash(filepath.Join(location, arch, IndexName)), f, keys.For(location))
	return r, err
}

// index returns a local path of the index and what removes it after use.
func (s source) index(ctx context.Context) (string, func(), error) {
	if s.dir != "" {
		return filepath.Join(s.dir, IndexName), func() {}, nil
	}
	cached := ""
	if s.cache != "" {
		cached = filepath.Join(s.cache, hex.EncodeToString([]byte(s.url))+"."+IndexName)
		if len(filepath.Base(cached)) > 250 {
			return "", nil, fault.Errorf(fault.Usage, "the URL is too long")
		}
	}
	if s.offline {
		if _, err := os.Stat(cached); err != nil {
			return "", nil, fault.Errorf(fault.Source, "its index is not in the cache, and the build is offline").Hintf("build once with the network")
		}
		return cached, func() {}, nil
	}
	path, err := s.download(ctx, IndexName, cached, maxIndex)
	if err != nil {
		return "", nil, err
	}
	if cached != "" {
		return path, func() {}, nil
	}
	return path, func() { _ = os.Remove(path) }, nil
}

// maxPackage is the largest package downloaded, in bytes.
const maxPackage = 8 << 30

// fetch returns a local path of a package's file; remove is called after use.
func (s source) fetch(ctx context.Context, m Meta) (string, func(), error) {
	if s.file != nil {
		path, err := s.file(m)
		return path, func() {}, err
	}
	if s.dir != "" {
		return filepath.Join(s.dir, m.FileName()), func() {}, nil
	}
	cached := ""
	if s.cache != "" {
		sum, err := parseChecksum(m.Checksum)
		if err != nil {
			return "", nil, err
		}
		cached = filepath.Join(s.cache, m.ID()+"."+hex.EncodeToString(sum)+".apk")
		if info, err := os.Stat(cached); err == nil && info.Size() == m.Size {
			return cached, func() {}, nil
		}
	}
	if s.offline {
		return "", nil, fault.Errorf(fault.Source, "package %s is not in the cache, and the build is offline", m.ID()).Hintf("build once with the network")
	}
	path, err := s.download(ctx, m.FileName(), cached, maxPackage)
	if err != nil {
		return "", nil, fmt.Errorf("package %s: %w", m.ID(), err)
	}
	if cached != "" {
		return path, func() {}, nil
	}
	return path, func() { _ = os.Remove(path) }, nil
}

// download writes a file of the repository to path, or to a temporary file
// where path is empty.
func (s source) download(ctx context.Context, name, path string, limit int64) (_ string, err error) {
	from := s.url + "/" + url.PathEscape(name)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return "", fault.Errorf(fault.Usage, "%w", err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return "", fault.Errorf(fault.Source, "%w", err).Hintf("check the network and the repository's URL")
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fault.Errorf(fault.Source, "get %s: %s", from, resp.Status).Hintf("check the repository's URL and architecture")
	}
	body := stream.AtMost(&body{resp.Body, from}, &limit, fault.Errorf(fault.Source, "get %s: more than %d bytes", from, limit))
	if path == "" {
		return temporary(body)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fault.Errorf(fault.Environment, "cache: %w", err)
	}
	return path, atomicfile.Copy(path, body, 0o644)
}

// temporary copies r into a file that the caller removes.
func temporary(r io.Reader) (_ string, err error) {
	f, err := os.CreateTemp("", ".sovereign-download-*")
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fault.Wrap(fault.Environment, errors.Join(err, os.Remove(f.Name())))
	}
	return f.Name(), nil
}

// body is what a server sends. Its errors are of class fault.Source.
type body struct {
	r    io.Reader
	from string
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		err = fault.Errorf(fault.Source, "get %s: %w", b.from, err)
	}
	return n, err
}
