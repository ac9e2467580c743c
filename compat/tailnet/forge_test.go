package tailnet

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tailscale.com/tailcfg"
)

// TestForge has the peer open the forge's pages and its SSH server over the
// tailnet, and the pages over HTTPS too, with a certificate for the node's name
// from a server that holds it to what the tailnet's DNS has, as Let's Encrypt
// does.
//
// SOVEREIGN_FORGE names the bundle of recipes/forge.
func TestForge(t *testing.T) {
	bundle := os.Getenv("SOVEREIGN_FORGE")
	if bundle == "" {
		t.Skip("SOVEREIGN_FORGE names no bundle")
	}
	if !inNamespace(t) {
		return
	}
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		t.Fatal(err)
	}
	n := newTailnet(t)
	a := serveAuthority(t)
	const name = "forge." + domain
	n.control.MagicDNSDomain, n.control.DNSConfig, n.control.OnSetDNS = domain, &tailcfg.DNSConfig{Proxied: true}, a.set
	a.serveTLS(t, n.control)
	g := &guest{t: t, state: t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), 2*bootDeadline)
	defer cancel()
	// tailscaled knows but Let's Encrypt, unless its environment says otherwise.
	g.boot(ctx, rebuild(t, bundle, "forge",
		"\nfiles:\n", fmt.Sprintf("\nfiles:\n  - path: /etc/ssl/certs/authority.pem\n    content: %q\n", a.root),
		"  - name: tailscale\n    after: [gitea]\n",
		"  - name: tailscale\n    after: [gitea]\n    environment: {GOMEMLIMIT: 80MiB, TS_DEBUG_ACME_DIRECTORY_URL: \""+a.directory+"\"}\n"))
	g.setSecret(ctx, "control-url", n.control.BaseURL())
	g.setSecret(ctx, "auth-key", authKey)
	g.waitTailscale(ctx, "")
	at := n.node(t, ctx, "forge").TailscaleIPs[0].String()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return n.peer.Dial(ctx, network, net.JoinHostPort(at, port))
		},
		TLSClientConfig: &tls.Config{RootCAs: a.roots},
	}}
	defer client.CloseIdleConnections()
	// Links are made for the name that was asked for.
	page := func(from string) {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, from+"/user/login", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatalf("over the tailnet: %v", err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(text), `"og:url" content="`+from+`"`) {
			t.Errorf("%s: %s, %v: %.2000s", from, answer.Status, err, text)
		}
	}
	page("http://forge")
	page("http://" + name)
	page("https://" + name)

	conn, err := n.peer.Dial(ctx, "tcp", fmt.Sprintf("%s:22", at))
	if err != nil {
		t.Fatalf("over the tailnet: %v", err)
	}
	defer conn.Close()
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "SSH-2.0-") {
		t.Errorf("the SSH server says %q, %v", line, err)
	}

	g.stop(ctx)
}
