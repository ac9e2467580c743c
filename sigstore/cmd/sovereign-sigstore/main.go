// Sovereign-sigstore checks signatures of Sigstore, for sovereign-build verify,
// which starts it for one at a time. See package sigstorejob for what they say to
// each other.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/sovereign-build/sovereign/sigstore/internal/program"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	code := program.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
