// Testphone is the test phone: started as itself it makes one and stays until
// Ctrl-C; by its other names it is the programs inside.
package main

import (
	"os"

	"github.com/sovereign-build/sovereign/internal/testphone"
	"github.com/sovereign-build/sovereign/internal/testphone/box"
)

func main() {
	if code, known := box.Main(os.Args); known {
		os.Exit(code)
	}
	os.Exit(testphone.Main(os.Args[1:], os.Stdout, os.Stderr))
}
