package daemon_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/daemon"
)

// A program that keeps its machines itself, as long as it lives.
func ExampleStart() {
	work, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(work)
	state := filepath.Join(work, "state")
	ctx, stop := context.WithCancel(context.Background())
	wait, err := daemon.Start(ctx, daemon.Options{StateDir: state, StopMachines: true})
	if err != nil {
		log.Fatal(err)
	}

	host, err := runtime.Local(state)
	if err != nil {
		log.Fatal(err)
	}
	info, err := host.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("kept by this program:", info.PID == os.Getpid())
	if err := host.Close(); err != nil {
		log.Fatal(err)
	}
	stop()
	fmt.Println("ended with", wait())
	// Output:
	// kept by this program: true
	// ended with <nil>
}
