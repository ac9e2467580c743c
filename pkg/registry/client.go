package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// MaxManifest is the largest manifest, index or image configuration that is
// read, in bytes: twice what registries accept.
const MaxManifest = 8 << 20

// tries bounds the attempts at one blob whose transfer breaks off.
const tries = 3

// Client is how to reach registries. The zero value is ready to use; its
// fields must not change, nor it be copied, after the first call.
type Client struct {
	// Keychain finds credentials; nil is authn.DefaultKeychain, which reads
	// what docker and podman have stored.
	Keychain authn.Keychain
	// Transport replaces remote.DefaultTransport. The rule on plain http
	// stays.
	Transport http.RoundTripper
	// Backoff is the wait between attempts after a failure that may pass;
	// the zero value is the library's: 1 s, then 3 s.
	Backoff remote.Backoff
	// Progress is told the bytes done of the total of a push. It is called
	// from another goroutine, one call at a time.
	Progress func(done, total int64)

	once   sync.Once
	puller *remote.Puller
	err    error
}

// pull returns the library's puller, which logs in to a repository once.
func (c *Client) pull() (*remote.Puller, error) {
	c.once.Do(func() { c.puller, c.err = remote.NewPuller(c.options(context.Background())...) })
	return c.puller, c.err
}

func (c *Client) options(ctx context.Context) []remote.Option {
	keychain, transport := c.Keychain, c.Transport
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	if transport == nil {
		transport = wide()
	}
	opts := []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(keychain),
		remote.WithTransport(guard{transport}),
		remote.WithUserAgent("sovereign-build"),
	}
	if c.Backoff.Steps > 0 {
		opts = append(opts, remote.WithRetryBackoff(c.Backoff))
	}
	return opts
}

// bufferSize is that of a connection's buffers in bytes. Go's are of 4 KiB, each a
// system call of its own.
const bufferSize = 256 << 10

// wide is the library's transport with buffers that fit blobs. There is one, as
// it keeps connections.
var wide = sync.OnceValue(func() http.RoundTripper {
	t, ok := remote.DefaultTransport.(*http.Transport)
	if !ok {
		return remote.DefaultTransport // somebody has replaced it
	}
	t = t.Clone()
	t.ReadBufferSize, t.WriteBufferSize = bufferSize, bufferSize
	return t
})

// guard refuses plain http to anything but this machine, and manifests that
// are not of the digest they were asked for by. The library's own rule also
// lets private networks and *.localhost through, and a redirect may lead
// anywhere.
type guard struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !isLoopback(r.URL.Hostname()) {
		return nil, fault.Errorf(fault.Source, "plain %s to %s is refused: only a registry on this machine may do without TLS", r.URL.Scheme, r.URL.Host).
			Hintf("give the registry a certificate, or reach it through a tunnel that ends on 127.0.0.1")
	}
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.Request == nil {
		resp.Request = r // which a transport need not set
	}
	verifyManifest(resp)
	return resp, nil
}

// Get returns what the reference points to: the descriptor and bytes of a
// manifest or index, which are those of the digest if the reference has one.
func (c *Client) Get(ctx context.Context, ref name.Reference) (*remote.Descriptor, error) {
	puller, err := c.pull()
	if err != nil {
		return nil, explain(ctx, ref.String(), err)
	}
	d, err := puller.Get(ctx, ref)
	if err != nil {
		return nil, explain(ctx, ref.String(), err)
	}
	if len(d.Manifest) > MaxManifest {
		return nil, fault.Errorf(fault.Source, "%s: a manifest of %d bytes is larger than %d", ref, len(d.Manifest), MaxManifest)
	}
	return d, nil
}

// Referrers are the descriptors of what says that it is about the manifest of a
// digest: from the registry's list of them, or from the tag that stands for it in
// one that keeps none. What such a list says is checked by nobody: whoever can
// push can add to it.
func (c *Client) Referrers(ctx context.Context, of name.Digest) ([]v1.Descriptor, error) {
	index, err := remote.Referrers(of, c.options(ctx)...)
	if err != nil {
		return nil, explain(ctx, of.String(), err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, explain(ctx, of.String(), err)
	}
	if len(m.Manifests) > MaxReferrers {
		return nil, fault.Errorf(fault.Source, "%s: %d referrers are more than %d", of, len(m.Manifests), MaxReferrers)
	}
	return m.Manifests, nil
}

// MaxReferrers is how many there may be of one manifest.
const MaxReferrers = 1024

// Attach writes a manifest that refers to another (its subject) by its digest,
// and sees to it that Referrers finds it.
func (c *Client) Attach(ctx context.Context, repo name.Repository, what v1.Image) (name.Digest, error) {
	h, err := what.Digest()
	if err != nil {
		return name.Digest{}, fault.Wrap(fault.Internal, err)
	}
	to := repo.Digest(h.String())
	if err := remote.Write(to, what, c.options(ctx)...); err != nil {
		return to, explain(ctx, to.String(), fmt.Errorf("push: %w", err))
	}
	return to, nil
}

// Blob gives read the bytes of a blob. What read sees before io.EOF may be
// wrong; at the end of a reader that gave wrong bytes stands an error of class
// fault.Verification instead of io.EOF. When the transfer breaks off, read is
// called again with the blob from its beginning, three times in all.
func (c *Client) Blob(ctx context.Context, repo name.Repository, d v1.Descriptor, read func(io.Reader) error) error {
	var err error
	for range tries {
		err = c.blob(ctx, repo, d, read)
		var broken *brokenOffError
		if err == nil || ctx.Err() != nil || !errors.As(err, &broken) {
			break
		}
	}
	return explain(ctx, repo.Digest(d.Digest.String()).String(), err)
}

func (c *Client) blob(ctx context.Context, repo name.Repository, d v1.Descriptor, read func(io.Reader) error) error {
	rc, err := c.OpenBlob(ctx, repo, d)
	if err != nil {
		return err
	}
	return errors.Join(read(rc), rc.Close())
}

// OpenBlob opens a blob once; its reader ends as Blob's does.
func (c *Client) OpenBlob(ctx context.Context, repo name.Repository, d v1.Descriptor) (io.ReadCloser, error) {
	ref := repo.Digest(d.Digest.String())
	puller, err := c.pull()
	if err != nil {
		return nil, explain(ctx, ref.String(), err)
	}
	layer, err := puller.Layer(ctx, ref)
	if err != nil {
		return nil, explain(ctx, ref.String(), err)
	}
	rc, err := layer.Compressed()
	if err != nil {
		return nil, explain(ctx, ref.String(), err)
	}
	return struct {
		io.Reader
		io.Closer
	}{Verify(&transfer{rc}, ref.String(), d), rc}, nil
}

// transfer marks errors of the network, so that they are told from those of
// whoever reads.
type transfer struct{ r io.Reader }

// Read implements io.Reader.
func (t *transfer) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if err != nil && err != io.EOF {
		err = &brokenOffError{err}
	}
	return n, err
}

// brokenOffError is a transfer that ended before its end.
type brokenOffError struct{ err error }

func (e *brokenOffError) Error() string { return e.err.Error() }
func (e *brokenOffError) Unwrap() error { return e.err }

// Push writes an image (v1.Image) or an index (v1.ImageIndex) with all it
// holds to a tag and returns the reference by digest. What the registry has
// already is not sent again, so that a push that broke off goes on where it
// ended.
func (c *Client) Push(ctx context.Context, ref name.Reference, what remote.Taggable) (name.Digest, error) {
	tag, ok := ref.(name.Tag)
	if !ok {
		return name.Digest{}, fault.Errorf(fault.Usage, "%s names a digest; a push goes to a tag", ref).Hintf("write it as HOST/NAME:TAG")
	}
	opts := c.options(ctx)
	done := make(chan struct{})
	close(done)
	if c.Progress != nil {
		updates := make(chan v1.Update, 16)
		done = make(chan struct{})
		go func() {
			defer close(done)
			for u := range updates { // closed by the library
				if u.Error == nil {
					c.Progress(u.Complete, u.Total)
				}
			}
		}()
		opts = append(opts, remote.WithProgress(updates))
	}
	var digest v1.Hash
	var err error
	switch what := what.(type) {
	case v1.Image:
		if err = remote.Write(tag, what, opts...); err == nil {
			digest, err = what.Digest()
		}
	case v1.ImageIndex:
		if err = remote.WriteIndex(tag, what, opts...); err == nil {
			digest, err = what.Digest()
		}
	default:
		return name.Digest{}, fault.Errorf(fault.Internal, "push: %T is neither image nor index", what)
	}
	<-done
	if err != nil {
		return name.Digest{}, explain(ctx, tag.String(), fmt.Errorf("push: %w", err))
	}
	return tag.Digest(digest.String()), nil
}
