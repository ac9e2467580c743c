package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// MaxSecret is the most that a secret's value may have, in bytes.
const MaxSecret = 4 << 10

// SetSecret hands a secret over: the guest keeps it 0600 on its data disk and
// has the service take it up, by its reload command or by a restart.
func (c *Client) SetSecret(ctx context.Context, service, name, value string) error {
	if value == "" || len(value) > MaxSecret {
		return fault.Errorf(fault.Usage, "secret %s of %s: %d bytes: want 1 to %d", name, service, len(value), MaxSecret)
	}
	_, err := c.callWith(ctx, http.MethodPut, secretPath(service, name), strings.NewReader(value))
	return err
}

// RotateSecret replaces a generated secret by a new one, as SetSecret does.
func (c *Client) RotateSecret(ctx context.Context, service, name string) error {
	_, err := c.call(ctx, http.MethodPost, secretPath(service, name)+"/rotate")
	return err
}

func secretPath(service, name string) string {
	return "/v1/secrets/" + url.PathEscape(service) + "/" + url.PathEscape(name)
}

// RestartService ends a service in order, and returns when the guest has begun
// it; the service starts again by itself.
func (c *Client) RestartService(ctx context.Context, service string) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/services/"+url.PathEscape(service)+"/restart")
	return err
}

// Boot asks what the guest did since the kernel's start.
func (c *Client) Boot(ctx context.Context) (Boot, error) {
	body, err := c.call(ctx, http.MethodGet, "/v1/boot")
	if err != nil {
		return Boot{}, err
	}
	var b Boot
	if err := json.Unmarshal(body, &b); err != nil {
		return Boot{}, fault.Errorf(fault.Device, "guest agent: boot: %w", err).
			Hintf("rebuild the image: its sovereign-init does not fit this program")
	}
	return b, nil
}

// Metrics asks for memory, load, pressure, the data disk and the services, in
// Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.call(ctx, http.MethodGet, "/v1/metrics")
}

// Grow has the data file system fill its disk, after that has grown. It is
// done when Grow returns; a disk that has not grown is no error.
func (c *Client) Grow(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/grow")
	return err
}
