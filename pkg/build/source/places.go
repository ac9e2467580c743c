package source

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// places are where a URL is asked for: there, or where the user's mirrors say.
// The longest key that the URL begins with counts.
func (f *Fetcher) places(url string) []string {
	best := ""
	for prefix := range f.mirrors {
		if len(prefix) > len(best) && strings.HasPrefix(url, prefix) {
			best = prefix
		}
	}
	if best == "" {
		return []string{url}
	}
	var out []string
	for _, with := range f.mirrors[best] {
		out = append(out, with+strings.TrimPrefix(url, best))
	}
	return out
}

// eachPlace asks the places of a URL until one has what is wanted. What matters
// most of what they said is the error.
func (f *Fetcher) eachPlace(ctx context.Context, url string, ask func(place string) error) error {
	var failed error
	for _, p := range f.places(url) {
		err := ask(p)
		if err == nil || !tryNext(ctx, err) {
			return err
		}
		failed = worse(failed, err)
	}
	return failed
}

// Client is the Fetcher's own, for what others ask of the network: it asks the
// user's mirrors where there are some.
func (f *Fetcher) Client() *http.Client {
	c := *f.client
	next := c.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	c.Transport = placesTransport{f, next}
	return &c
}

// placesTransport asks the places of a URL until one answers that it has what
// is wanted; the last one's answer is given as it is.
type placesTransport struct {
	f    *Fetcher
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper, for requests without a body.
func (t placesTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	places := t.f.places(req.URL.String())
	if req.Body != nil || len(places) == 1 && places[0] == req.URL.String() {
		return t.next.RoundTrip(req)
	}
	for i, place := range places {
		u, err := url.Parse(place)
		if err != nil {
			return nil, err
		}
		asked := req.Clone(req.Context())
		asked.URL, asked.Host = u, u.Host
		resp, err := t.next.RoundTrip(asked)
		if i == len(places)-1 || err == nil && resp.StatusCode < http.StatusBadRequest || req.Context().Err() != nil {
			return resp, err
		}
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // for the connection's next use
			resp.Body.Close()                                            // only read
		}
	}
	return nil, http.ErrNotSupported // there is no URL without a place
}
