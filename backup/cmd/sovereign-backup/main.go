// Sovereign-backup keeps backups of machines in a repository, for sovereignd,
// which starts it for one job at a time. See package backupjob for what they say
// to each other.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/sovereign-build/sovereign/backup/internal/program"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	code := program.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
