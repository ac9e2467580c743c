// Sovereignd keeps the machines of a state directory running, as sovereign-build
// up, down, restart, update and rollback want them. See package daemon.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/sovereign-build/sovereign/pkg/runtime/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once, should an orderly stop hang.
	context.AfterFunc(ctx, stop)
	code := daemon.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
