package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/sovereign-build/sovereign/internal/android"
	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/crosvm"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/logs"
)

// maxLog is the size, in bytes, at which the log is renamed to LogFile.1.
const maxLog = 4 << 20

// logLimit is how long the disk may take for what is not in the log yet.
const logLimit = 5 * time.Second

const usage = `usage: sovereignd [flags]            keep the machines of a state directory
       sovereignd [flags] connect    join standard input and output to the
                                     sovereignd of the state directory, which is
                                     started when none runs
       sovereignd --android undo     put back what was changed on a phone
`

// Main is the program sovereignd: its arguments come in, its exit code goes
// out, and it keeps machines, or a connection, until ctx ends.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("sovereignd", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, usage)
		f.PrintDefaults()
	}
	o := Options{}
	f.StringVar(&o.StateDir, "state-dir", "", "the `directory` of machines (default: sovereign in $XDG_STATE_HOME or ~/.local/state)")
	f.BoolVar(&o.StopMachines, "stop-machines", false, "shut the machines down in order when told to end; without it they go on, for the next sovereignd")
	f.BoolVar(&o.ExitWhenIdle, "exit-when-idle", false, "end when no machine is wanted up any more and nobody is connected")
	phone := f.Bool("android", false, "this is a phone: stay, whatever becomes of adb, and keep machines as the phone allows")
	hv := hypervisorFlags{}
	f.StringVar(&hv.name, "hypervisor", "auto", "`name` of what runs the machines: qemu, crosvm, or auto, which takes crosvm where Android has it")
	f.StringVar(&hv.crosvm, "crosvm", crosvm.AndroidProgram, "crosvm's `program`")
	f.StringVar(&hv.vsockDir, "vsock-dir", "", "reach guests under crosvm by the sockets CID.sock in a `directory`, as vhost-device-vsock makes them, instead of the kernel's vsock")
	version := f.Bool("version", false, "print the version and end")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return int(fault.Usage)
	}
	if *phone && o.StateDir == "" {
		o.StateDir = android.StateDir
	}
	var err error
	switch {
	case *version:
		_, err = fmt.Fprintln(stdout, "sovereignd", moduleVersion())
		err = fault.Wrap(fault.Environment, err)
	case f.NArg() == 1 && f.Arg(0) == "connect":
		// One that is started here stays on a phone, where nobody else starts it
		// until the next boot.
		stay := "--exit-when-idle"
		if *phone {
			stay = "--android"
		}
		err = connect(ctx, o.StateDir, append([]string{stay}, hv.flags()...), stdin, stdout)
	case *phone && f.NArg() == 1 && f.Arg(0) == "undo":
		err = undoAndroid(ctx, o)
	case f.NArg() > 0:
		err = fault.Errorf(fault.Usage, "%q is not a flag", f.Arg(0)).Hintf("run sovereignd --help for the flags")
	case *phone:
		o.StopMachines = true
		err = runAndroid(ctx, o, hv)
	default:
		err = runLogged(ctx, o, hv, nil)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "sovereignd: %s\n", printable.Lines(err.Error()))
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", printable.Line(hint))
	}
	return int(fault.ClassOf(err))
}

// moduleVersion is that of the main module, as the Go tool stamps it.
func moduleVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}

// runLogged is Run with a log in the state directory. guard makes the Guard; it
// may be nil.
func runLogged(ctx context.Context, o Options, hv hypervisorFlags, guard func(report func(string)) (Guard, error)) error {
	choice, err := hv.option()
	if err != nil {
		return err
	}
	r, err := machine.Open(o.StateDir, choice)
	if err != nil {
		return err
	}
	log := logs.New()
	if err := log.OpenFile(filepath.Join(r.Dir(), sovereignd.LogFile), maxLog); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	o.Report = func(name, text string) {
		if name != "" {
			text = name + ": " + text
		}
		// A log that cannot be written must not keep machines from running.
		fmt.Fprintf(log, "%s %s\n", time.Now().UTC().Format(time.RFC3339), printable.Line(text))
	}
	if guard != nil {
		o.Guard, err = guard(func(text string) { o.Report("", text) })
	}
	if err == nil {
		err = RunMachines(ctx, r, o)
	}
	if err != nil {
		o.Report("", "ends: "+err.Error())
	}
	// Its last lines say why it ends.
	return errors.Join(err, fault.Wrap(fault.Environment, log.Close(logLimit)))
}

// connect joins two streams to the socket, until either end is closed.
func connect(ctx context.Context, stateDir string, flags []string, stdin io.Reader, stdout io.Writer) error {
	if stateDir == "" {
		var err error
		if stateDir, err = runtime.DefaultStateDir(); err != nil {
			return err
		}
	}
	stateDir, err := filepath.Abs(stateDir)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if err := sovereignd.MakeStateDir(stateDir); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	conn, err := sovereignd.Dial(ctx, stateDir, self, flags...)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go func() {
		// Its end is the end of the one who asks, whatever it was: what he asked
		// for is of use to nobody any more.
		_, _ = io.Copy(conn, stdin)
		conn.Close()
	}()
	_, err = io.Copy(stdout, conn)
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fault.Wrap(fault.Environment, err)
}
