// Sovereign-build builds virtual machines from recipes and runs them. The
// commands are in internal/cli; docs/cli describes each.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/sovereign-build/sovereign/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the program at once, should the clean-up hang.
	context.AfterFunc(ctx, stop)
	c := &cli.CLI{
		Args:   os.Args[1:],
		Env:    os.Environ(),
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	}
	c.Wire()
	os.Exit(c.Run(ctx))
}
