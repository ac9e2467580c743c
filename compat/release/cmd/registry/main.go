// Registry is an OCI registry in memory, on a port of loopback that it prints:
// for the test of .ci/release.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Addr())
	// Whoever reads the address wants nothing else.
	if err := os.Stdout.Close(); err != nil {
		log.Fatal(err)
	}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	log.Fatal(http.Serve(l, handler))
}
