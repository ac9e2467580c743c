// Package box is the test phone from the inside: its init and stand-ins for
// the programs of Android that Sovereign asks, all of them one program that
// looks at its own name. It is test code: nothing of the product imports it.
//
// A stand-in is stricter than the real thing where that matters: it does what
// ../../../docs/phone.md says Android does, and refuses what it would refuse.
// What each is held to is in box_test.go.
package box

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Config is what a phone is. It stands in the file ConfigFile of the phone.
type Config struct {
	Model       string // "Pixel 9"
	Release     string // of Android: "16"
	SDK         int    // 36
	Fingerprint string
	// Su is how root is got: "magisk" and "kernelsu" (su -c), "userdebug" (su 0),
	// "adbd" (adb root: the shell is root already), "denied" (the owner says no)
	// or "" (there is none).
	Su string
	// Hypervisor: ro.boot.hypervisor.vm.supported, and protected VMs.
	Hypervisor, Protected bool
	// SafeMode: no module and no script of the root manager is run.
	SafeMode bool
	// Arch is of the programs, "amd64" or "arm64".
	Arch string
	// ShutdownSeconds is how long init waits before it ends everything, as
	// ro.build.shutdown_timeout; 0 is 6.
	ShutdownSeconds int
	// ADBPort is where adbd listens in the phone.
	ADBPort int
}

// ConfigFile is where a phone's Config is.
const ConfigFile = "/system/etc/testphone.json"

func readConfig() (c Config, err error) {
	text, err := os.ReadFile(ConfigFile)
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	return c, err
}

// applets are the programs, by their names.
var applets = map[string]func(args []string, stdout, stderr io.Writer) int{
	"getprop":       getprop,
	"setprop":       setprop,
	"settings":      settings,
	"device_config": deviceConfig,
	"dumpsys":       dumpsys,
	"pm":            pm,
	"su":            su,
	"reboot":        reboot,
	"magisk":        magisk,
	"ksud":          ksud,
	"adbd-launch":   launchADBD,
}

// Names are those of the programs.
func Names() []string {
	var names []string
	for name := range applets {
		names = append(names, name)
	}
	return names
}

// Main runs the program of args[0], or says that there is none.
func Main(args []string) (code int, known bool) {
	name := filepath.Base(args[0])
	if name == "phone-init" {
		return initMain(args[1:]), true
	}
	applet, known := applets[name]
	if !known {
		return 0, false
	}
	return applet(args[1:], os.Stdout, os.Stderr), true
}

// failed prints an error and is the exit code for it.
func failed(w io.Writer, name string, err error) int {
	fmt.Fprintf(w, "%s: %v\n", name, err)
	return 1
}
