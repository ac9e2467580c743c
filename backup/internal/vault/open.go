package vault

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/blob/s3"
	"github.com/kopia/kopia/repo/blob/sftp"
	"github.com/kopia/kopia/repo/blob/webdav"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/maintenance"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// user is the name under which machines' backups stand: user@device.
	user = "sovereign"
	// metadataCache is for indexes and directories of a repository that is not a
	// directory, in bytes.
	metadataCache = 64 << 20
	// contentCache is for a disk's blocks, which are read once: the least that
	// kopia works with.
	contentCache = 1 << 20
	// configFile has kopia's settings for the repository, in the Job's Dir.
	configFile = "kopia.config"
)

// connection is the way to a repository's store.
type connection struct {
	storage blob.ConnectionInfo
	server  *repo.APIServerInfo // instead of storage
	name    string              // user@host at the server
	local   bool
}

// connect makes kopia's words of a URL and its secrets.
func connect(url string, s backup.Secrets) (connection, error) {
	l, err := backup.ParseURL(url)
	if err != nil {
		return connection{}, err
	}
	if err := s.Check(l); err != nil {
		return connection{}, err
	}
	c := connection{}
	switch l.Kind {
	case backup.Directory:
		c.local = true
		c.storage = blob.ConnectionInfo{Type: "filesystem", Config: &filesystem.Options{Path: l.Path, FileMode: 0o600, DirectoryMode: 0o700}}
	case backup.SFTP:
		host, port, err := net.SplitHostPort(l.Host)
		if err != nil {
			host, port = l.Host, "22"
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return c, fault.Errorf(fault.Usage, "the repository's URL: port %.20q is none", port)
		}
		o := &sftp.Options{Host: host, Port: int(n), Username: l.User, Path: l.Path, KeyData: s.Identity, KnownHostsData: s.KnownHosts}
		if s.Identity == "" {
			o.Password = s.Secret
		}
		c.storage = blob.ConnectionInfo{Type: "sftp", Config: o}
	case backup.S3:
		bucket, prefix, _ := strings.Cut(strings.TrimPrefix(l.Path, "/"), "/")
		if prefix != "" {
			prefix += "/"
		}
		c.storage = blob.ConnectionInfo{Type: "s3", Config: &s3.Options{
			BucketName: bucket, Prefix: prefix, Endpoint: l.Host, DoNotUseTLS: l.Plain, Region: l.Region,
			AccessKeyID: l.User, SecretAccessKey: s.Secret,
		}}
	case backup.WebDAV:
		scheme := "https"
		if l.Plain {
			scheme = "http"
		}
		c.storage = blob.ConnectionInfo{Type: "webdav", Config: &webdav.Options{URL: scheme + "://" + l.Host + l.Path, Username: l.User, Password: s.Secret}}
	case backup.Server:
		c.server = &repo.APIServerInfo{BaseURL: "https://" + l.Host, TrustedServerCertificateFingerprint: l.Fingerprint}
		c.name = l.User
	}
	return c, nil
}

// client is who a device is in the repository. At a server, whose users have
// names of their own, the machine's name stands for the device's where the
// user's has none.
func (c connection) client(host string) repo.ClientOptions {
	o := repo.ClientOptions{Username: user, Hostname: strings.ToLower(host)}
	if name, at, _ := strings.Cut(c.name, "@"); c.server != nil {
		o.Username = name
		if at != "" {
			o.Hostname = at
		}
	}
	return o
}

// initialize makes the repository.
func initialize(ctx context.Context, c connection, key string) error {
	if c.server != nil {
		return fault.Errorf(fault.Usage, "the repository of a kopia server is made there").Hintf("add it: sovereign-build repository add")
	}
	st, err := blob.NewStorage(ctx, c.storage, true)
	if err != nil {
		return unreachable(err)
	}
	defer st.Close(ctx) //nolint:errcheck // nothing was left to be written
	err = repo.Initialize(ctx, st, &repo.NewRepositoryOptions{
		// SHA-256 is in the hardware of both architectures, and the key is one
		// of 160 random bits, or must stand 600,000 rounds: scrypt's 64 MiB would be
		// most of what the program takes.
		BlockFormat:                       format.ContentFormat{Hash: "HMAC-SHA256-128", Encryption: "AES256-GCM-HMAC-SHA256"},
		FormatBlockKeyDerivationAlgorithm: "pbkdf2-sha256-600000",
	}, key)
	switch {
	case errors.Is(err, repo.ErrAlreadyInitialized):
		return fault.Errorf(fault.Usage, "there is a repository already").Hintf("add it with its key: sovereign-build repository add")
	case err != nil:
		return writeError(err)
	}
	return nil
}

// open opens a repository. fresh takes nothing from a cache: what is read comes
// from the store.
func open(ctx context.Context, c connection, j backupjob.Job, fresh bool) (repo.Repository, error) {
	config := repo.LocalConfig{ClientOptions: c.client(j.Host), APIServer: c.server}
	if c.server == nil {
		config.Storage = &c.storage
	}
	config.Description = "machines of sovereign"
	config.Caching = &content.CachingOptions{}
	if !c.local && !fresh {
		config.Caching.CacheDirectory = filepath.Join(j.Dir, "cache")
		config.Caching.MetadataCacheSizeBytes, config.Caching.ContentCacheSizeBytes = metadataCache, contentCache
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	if err := os.MkdirAll(j.Dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	// Two runs at a time may differ in nothing else.
	path := filepath.Join(j.Dir, configFile)
	if fresh {
		path += ".fresh"
	}
	if err := atomicfile.Write(path, text, 0o600); err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, path, j.Secrets.Key, &repo.Options{DisableInternalLog: true, DoNotWaitForUpgrade: true})
	switch {
	case err == nil:
		return r, nil
	case errors.Is(err, repo.ErrInvalidPassword):
		return nil, fault.Errorf(fault.Usage, "the key is not that of the repository").Hintf("look at the recovery sheet that was printed when it was made")
	case errors.Is(err, repo.ErrRepositoryNotInitialized) || errors.Is(err, blob.ErrBlobNotFound):
		return nil, fault.Errorf(fault.Usage, "there is no repository at %s", j.Repository).
			Hintf("make one: sovereign-build repository init; if there was one, what it lies on is not there")
	}
	// Of both, kopia keeps a text alone.
	if c.server != nil && strings.Contains(err.Error(), "PermissionDenied desc = access denied for") {
		return nil, fault.Errorf(fault.Usage, "the server does not take the key as the password of %s", c.name).
			Hintf("have it set there: kopia server users set %s", c.name)
	}
	if c.server != nil && strings.Contains(err.Error(), "can't find certificate matching") {
		return nil, fault.Errorf(fault.Verification, "what answers at %s has another certificate than the repository's URL says; nothing was told to it", strings.TrimPrefix(c.server.BaseURL, "https://")).
			Hintf("if its owner has given it a new one, add the repository again with that one's fingerprint")
	}
	return nil, unreachable(err)
}

// own makes this device the one that does the repository's maintenance: it has
// just made it.
func own(ctx context.Context, r repo.Repository) error {
	return repo.WriteSession(ctx, r, repo.WriteSessionOptions{Purpose: "own"}, func(ctx context.Context, w repo.RepositoryWriter) error {
		p := maintenance.DefaultParams()
		p.Owner = r.ClientOptions().UsernameAtHost()
		return maintenance.SetParams(ctx, w, &p)
	})
}
