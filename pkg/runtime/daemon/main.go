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
	"github.com/sovereign-build/sovereign/internal/netd"
	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/avf"
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
       sovereignd --android-shell relay
                                     join standard input and output to a computer
                                     that reaches the guests of a phone without root
`

// Main is the program sovereignd: its arguments come in, its exit code goes
// out, and it keeps machines, or a connection, until ctx ends.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	netd.Use()
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
	shell := f.Bool("android-shell", false, "this is a phone that is not rooted, and this program adb's shell's: machines run by Android's own service, and are reached by a relay")
	hv := hypervisorFlags{}
	f.StringVar(&hv.name, "hypervisor", "auto", "`name` of what runs the machines: qemu, crosvm, avf, which is Android's own service, or auto, which takes crosvm where Android has it")
	f.StringVar(&hv.crosvm, "crosvm", crosvm.AndroidProgram, "crosvm's `program`")
	f.StringVar(&hv.vsockDir, "vsock-dir", "", "reach guests under crosvm by the sockets CID.sock in a `directory`, as vhost-device-vsock makes them, instead of the kernel's vsock")
	f.StringVar(&hv.vm, "vm", avf.AndroidProgram, "the `program` of Android's own service for virtual machines")
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
	if *shell {
		// SELinux lets the shell make no socket files where its machines have to be.
		process.AbstractSockets()
		if o.StateDir == "" {
			o.StateDir = android.ShellStateDir
		}
		if hv.name == "auto" {
			hv.name = "avf"
		}
	}
	var err error
	switch {
	case *shell && *phone:
		err = fault.Errorf(fault.Usage, "--android is for root, and --android-shell for adb's shell without it")
	case *version:
		_, err = fmt.Fprintln(stdout, "sovereignd", moduleVersion())
		err = fault.Wrap(fault.Environment, err)
	case f.NArg() == 1 && f.Arg(0) == "connect":
		// One that is started here stays on a phone, where nobody else starts it
		// until the next boot.
		stay := []string{"--exit-when-idle"}
		switch {
		case *phone:
			stay = []string{"--android"}
		case *shell:
			stay = append(stay, "--android-shell")
		}
		err = connect(ctx, o.StateDir, append(stay, hv.flags()...), stdin, stdout)
	case *shell && f.NArg() == 1 && f.Arg(0) == "relay":
		err = relay(ctx, o.StateDir, stdin, stdout)
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

// relay carries what this phone's sovereignd has to say to guests over two streams.
func relay(ctx context.Context, stateDir string, stdin io.Reader, stdout io.Writer) error {
	if err := sovereignd.MakeStateDir(stateDir); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return avf.Relay(ctx, machine.RelayDir(stateDir), &streams{stdin, stdout, cancel})
}

// streams are two that make one. Closing it cannot end a read that waits: it ends
// what reads.
type streams struct {
	io.Reader
	io.Writer
	end func()
}

func (s *streams) Close() error {
	s.end()
	return nil
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
