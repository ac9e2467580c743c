package registry

import (
	"context"
	"errors"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// explain gives an error of the library its class: Source for everything a
// registry or the network does; wrong digests have theirs already. The library has taken credentials and the parameters of
// signed addresses out of its texts.
func explain(ctx context.Context, what string, err error) error {
	var classed *fault.Error
	var answer *transport.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &classed):
		return err
	case errors.As(err, &answer):
		return fault.Errorf(fault.Source, "%s: %w", what, err).Hintf("%s", hint(answer.StatusCode))
	}
	return fault.Errorf(fault.Source, "%s: %w", what, err).Hintf("check the name and the network, and run the command again")
}

func hint(status int) string {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "log in with docker login, podman login or crane auth login, and check that the account may use this repository"
	case status == http.StatusNotFound:
		return "check the name and the tag or digest"
	case status == http.StatusTooManyRequests:
		return "wait, or log in: registries limit clients without an account"
	case status >= 500:
		return "the registry has a problem; run the command again"
	}
	return "check the reference"
}
