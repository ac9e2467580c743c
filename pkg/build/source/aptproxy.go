package source

import (
	"net/http"
	"net/url"
	"os/exec"
	"strings"
)

// proxyFor is the http.Transport's Proxy: that of apt's configuration for the
// machine's Debian archives, where it has one, and the environment's for
// everything else.
func (a *apt) proxyFor(req *http.Request) (*url.URL, error) {
	if archives, err := a.archives(); err == nil {
		for _, ar := range archives {
			if u, err := url.Parse(ar.URI); err == nil && u.Host == req.URL.Host {
				if p := a.proxies()[req.URL.Scheme]; p != "" {
					return url.Parse(p)
				}
				break
			}
		}
	}
	return http.ProxyFromEnvironment(req)
}

// proxies are apt's proxies by scheme. A machine whose apt cannot be asked has
// none: reaching the archive directly is then the right thing to try.
func (a *apt) proxies() map[string]string {
	a.proxyOnce.Do(func() {
		out, err := exec.Command("apt-config", "shell", "http", "Acquire::http::Proxy", "https", "Acquire::https::Proxy").Output()
		if err == nil {
			a.proxy = parseAptConfig(string(out))
		}
	})
	return a.proxy
}

// parseAptConfig reads apt-config shell's NAME='VALUE' lines; DIRECT is apt's
// word for no proxy.
func parseAptConfig(text string) map[string]string {
	out := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, "'")
		if ok && value != "" && !strings.EqualFold(value, "DIRECT") && !strings.EqualFold(value, "false") {
			out[name] = value
		}
	}
	return out
}
