package supervisor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"time"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/logs"
)

// LogFile is the supervisor's log in the state directory; LogFile.1 is the
// older half of it.
const LogFile = "sovereignd.log"

// maxLog is the size, in bytes, at which the log is renamed to LogFile.1.
const maxLog = 4 << 20

// logLimit is how long the disk may take for what is not in the log yet.
const logLimit = 5 * time.Second

// Main is the program sovereignd: its arguments come in, its exit code goes
// out, and it supervises until ctx ends.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	f := flag.NewFlagSet("sovereignd", flag.ContinueOnError)
	f.SetOutput(stderr)
	stateDir := f.String("state-dir", "", "the `directory` of instances (default: sovereign in $XDG_STATE_HOME or ~/.local/state)")
	var o Options
	f.BoolVar(&o.StopMachines, "stop-machines", false, "shut the machines down in order when told to end; without it they go on, for the next sovereignd")
	f.BoolVar(&o.ExitWhenIdle, "exit-when-idle", false, "end when no machine is wanted up any more")
	if err := f.Parse(args); err != nil {
		if err == flag.ErrHelp {
			return 0
		}
		return int(fault.Usage)
	}
	err := error(nil)
	if f.NArg() > 0 {
		err = fault.Errorf(fault.Usage, "%q is not a flag", f.Arg(0)).Hintf("run sovereignd --help for the flags")
	} else {
		err = run(ctx, *stateDir, o)
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

func run(ctx context.Context, stateDir string, o Options) error {
	r, err := runtime.Open(stateDir)
	if err != nil {
		return err
	}
	log := logs.New()
	if err := log.OpenFile(filepath.Join(r.Dir(), LogFile), maxLog); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	o.Report = func(instance, text string) {
		if instance != "" {
			text = instance + ": " + text
		}
		// A log that cannot be written must not keep machines from running.
		fmt.Fprintf(log, "%s %s\n", time.Now().UTC().Format(time.RFC3339), printable.Line(text))
	}
	err = Run(ctx, r, o)
	if err != nil {
		o.Report("", "ends: "+err.Error())
	}
	// Its last lines say why it ends.
	return errors.Join(err, fault.Wrap(fault.Environment, log.Close(logLimit)))
}
