package testphone

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Main makes a phone and stays until Ctrl-C.
func Main(args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("testphone", flag.ContinueOnError)
	f.SetOutput(stderr)
	o := Options{Config: Defaults(), Log: stderr}
	f.StringVar(&o.Dir, "dir", "", "`directory` of the phone's /data, which stays (default: a new one, which goes)")
	f.StringVar(&o.ADBD, "adbd", "bin/debian-adbd", "`directory` that scripts/adbd.sh has made")
	f.StringVar(&o.Config.Su, "su", o.Config.Su, "how root is got: magisk, kernelsu, userdebug, adbd, denied, or nothing")
	f.StringVar(&o.Config.Release, "android", o.Config.Release, "`version` of Android that it says it is")
	f.IntVar(&o.Config.SDK, "sdk", o.Config.SDK, "its API `level`")
	f.IntVar(&o.Port, "port", 0, "`port` of loopback for adb (default: any)")
	crosvm := f.String("crosvm", "", "a `program` for /apex/com.android.virt/bin/crosvm")
	vm := f.String("vm", "", "a `program` for /apex/com.android.virt/bin/vm, which a phone without root has (--su '')")
	if err := f.Parse(args); err != nil {
		return 2
	}
	o.Programs = map[string]string{}
	for to, from := range map[string]string{"crosvm": *crosvm, "vm": *vm} {
		if from != "" {
			o.Programs["/apex/com.android.virt/bin/"+to] = from
		}
	}
	if err := run(&o, stdout); err != nil {
		fmt.Fprintln(stderr, "testphone:", err)
		return 1
	}
	return 0
}

func run(o *Options, stdout io.Writer) (err error) {
	if o.Box, err = os.Executable(); err != nil {
		return err
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "testphone-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.Dir)
	}
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	p, err := Start(*o)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "a test phone is at %[1]s: adb connect %[1]s, and then --device adb:%[1]s; Ctrl-C switches it off\n", p.Address())
	select {
	case <-interrupt:
	case <-p.Done():
		err = p.Err()
	}
	if closeErr := p.Close(); err == nil {
		err = closeErr
	}
	return err
}
