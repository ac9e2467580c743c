package recipe

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// Mirrors says which places are asked in place of others: URL prefixes that end
// in a slash, by the prefix that they stand for.
type Mirrors map[string][]string

// ParseMirrors reads a user's mirrors.yaml: a mapping of URLs to lists of those
// that are asked in their place, in order. A key counts for all that begins with
// it, to a slash. They are https, and http on this machine alone: what is locked
// anew is whatever they give.
//
// Errors are of class fault.Usage and begin with "FILE:LINE:COLUMN: ".
func ParseMirrors(path string, data []byte) (Mirrors, error) {
	doc, node, err := parse(path, data)
	if err != nil {
		return nil, err
	}
	read := map[string][]string{}
	if err := doc.decode(node, &read); err != nil {
		return nil, err
	}
	c := &check{doc: doc}
	m := Mirrors{}
	for _, key := range slices.Sorted(slices.Values(keys(read))) {
		from := c.prefix(key+"#key", key)
		if m[from] != nil {
			c.failf(key+"#key", "%s has mirrors already", from)
		}
		if len(read[key]) == 0 {
			c.failf(key, "no place is named that stands for %s", key)
		}
		for i, with := range read[key] {
			m[from] = append(m[from], c.prefix(index(key, i), with))
		}
	}
	return m, c.err
}

// prefix checks a URL and gives it the slash at its end.
func (c *check) prefix(where, s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		c.failf(where, "%q is not an https URL", s)
	}
	return strings.TrimRight(s, "/") + "/"
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
