// Command sovereign-init is PID 1 of a Sovereign guest, in the initramfs and
// in the root image. See package initd.
package main

import "github.com/sovereign-build/sovereign/pkg/runtime/guest/initd"

func main() { initd.Main() }
