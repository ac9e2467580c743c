package android

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/strictjson"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

const (
	// bootEvery is how often it is looked whether the phone has booted.
	bootEvery = time.Second
	// apexLimit and clockLimit are how long the phone may take for its APEXes
	// and for its time of day; then it goes on without, and says so.
	apexLimit  = 5 * time.Minute
	clockLimit = 2 * time.Minute
	// checkEvery is how often battery, heat and oom_score_adj are looked at
	// while a machine is wanted up.
	checkEvery = time.Minute
)

// built is before any phone's time of day that can be right: whose battery was
// empty begins at 1970, or at its build.
var built = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// A Keeper is for the life of a sovereignd on a phone.
type Keeper struct {
	root    root
	run     runner
	dir     string
	report  func(string)
	changed chan struct{}

	// looked has Run look again.
	looked chan struct{}
	now    func() time.Time

	mu       sync.Mutex
	held     string
	up       bool
	concerns map[string]string // by what they are about
	floor    runtime.PhoneFloor
}

// NewKeeper makes one, and does what is to be done before anything else: this
// process leaves the cgroup that it was started in. dir is where its files are,
// and report takes lines for the log.
func NewKeeper(dir string, report func(string)) (*Keeper, error) {
	k := newKeeper("/", command, dir, report)
	return k, k.settle()
}

func newKeeper(r root, run runner, dir string, report func(string)) *Keeper {
	return &Keeper{
		root: r, run: run, dir: dir, report: report, changed: make(chan struct{}, 1),
		looked: make(chan struct{}, 1), now: time.Now, held: "the phone boots", concerns: map[string]string{},
	}
}

func (k *Keeper) settle() (err error) {
	leaveErr := k.root.leaveGroup(os.Getpid())
	// What counts is where it is now, whatever each of the hierarchies said.
	if err := k.root.durable("self"); err != nil {
		k.report(fmt.Sprintf("not durable: %v: %v", err, leaveErr))
	}
	k.concern("locked memory", LiftMemlock())
	k.concern("memory", k.root.protect(os.Getpid()))
	k.floor, err = k.readFloor()
	return err
}

// concern notes what is wrong about something, or that nothing is any more.
func (k *Keeper) concern(about string, err error) {
	k.mu.Lock()
	before := k.concerns[about]
	delete(k.concerns, about)
	text := ""
	if err != nil {
		text = err.Error()
		k.concerns[about] = text
	}
	k.mu.Unlock()
	if text != "" && text != before {
		k.report(text)
	}
}

// Hold is why machines may not run now, "" where they may.
func (k *Keeper) Hold() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held
}

// Changed is sent to when Hold may say something else.
func (k *Keeper) Changed() <-chan struct{} { return k.changed }

// Wanted is told whether any machine is wanted up, or is on its way down, and
// keeps the phone awake meanwhile.
func (k *Keeper) Wanted(up bool) {
	k.mu.Lock()
	same := k.up == up
	k.up = up
	k.mu.Unlock()
	if same {
		return
	}
	k.concern("wake lock", k.root.wake(up))
	poke(k.looked)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is going to look anyway
	}
}

// Run looks after the phone until ctx ends. machines are the processes that run
// machines. stop is called, once, when the phone shuts down.
func (k *Keeper) Run(ctx context.Context, machines func() []int, stop func(why string)) {
	s, err := k.root.watchShutdown()
	if err != nil {
		k.concern("shutdown", fault.Errorf(fault.Environment, "the phone's shutdown is not seen, and machines are cut off then: %w", err))
	} else {
		go func() { stop("the phone shuts down: " + s.wait()) }()
	}
	if !k.waitBoot(ctx) {
		return
	}
	for {
		k.check(machines())
		var tick <-chan time.Time
		k.mu.Lock()
		if k.up || k.held != "" {
			tick = time.After(checkEvery)
		}
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick:
		case <-k.looked:
		}
	}
}

// waitBoot waits until the phone is ready for machines; false is the end of ctx.
func (k *Keeper) waitBoot(ctx context.Context) bool {
	begin := time.Now()
	for {
		why, late := k.notReady(ctx, time.Since(begin))
		if why == "" {
			k.concern("boot", late)
			break
		}
		k.hold("the phone boots: " + why)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(bootEvery):
		}
	}
	k.hold("")
	if mode, err := k.run.property(ctx, "ro.sys.safemode"); err == nil && mode == "1" {
		// It was started by hand: nothing of the root manager's runs then.
		k.concern("safe mode", fault.Errorf(fault.Environment, "the phone is in safe mode: after a start in it, sovereignd is not started by itself"))
	}
	return true
}

// notReady is what is waited for, after that time; late is what is not waited for
// any longer.
func (k *Keeper) notReady(ctx context.Context, after time.Duration) (why string, late error) {
	booted, err := k.run.property(ctx, "sys.boot_completed")
	if err != nil {
		return err.Error(), nil
	}
	if booted != "1" {
		return "sys.boot_completed is not set yet", nil
	}
	apex, err := k.run.property(ctx, "apexd.status")
	if err != nil {
		return err.Error(), nil
	}
	if apex != "ready" && apex != "activated" {
		if after < apexLimit {
			return "its APEXes are not ready yet", nil
		}
		late = fault.Errorf(fault.Environment, "its APEXes were not ready in %s: apexd.status is %q", apexLimit, apex)
	}
	if now := k.now(); now.Before(built) {
		if after < clockLimit {
			return "its clock is not set yet", nil
		}
		late = fault.Errorf(fault.Environment, "its clock was not set in %s: it says %s", clockLimit, now.UTC().Format(time.DateOnly))
	}
	return "", late
}

// hold changes why machines may not run.
func (k *Keeper) hold(why string) {
	k.mu.Lock()
	same := k.held == why
	k.held = why
	k.mu.Unlock()
	if !same {
		poke(k.changed)
	}
}

// check looks at what may have changed.
func (k *Keeper) check(machines []int) {
	k.concern("memory", k.root.protect(append(machines, os.Getpid())...))
	b, err := k.root.battery()
	k.concern("battery", err)
	if err == nil {
		k.mu.Lock()
		floor, held := k.floor, k.held != ""
		k.mu.Unlock()
		k.hold(reached(floor, b, held))
	}
}

// Status is what there is to say.
func (k *Keeper) Status() *runtime.PhoneStatus {
	s := &runtime.PhoneStatus{Durable: true, Awake: k.root.awake(), Heat: k.root.heat()}
	// Another may have put it elsewhere since.
	if err := k.root.durable("self"); err != nil {
		s.Durable, s.NotDurable = false, err.Error()
	}
	s.Battery, _ = k.root.battery() // its error is among the concerns
	k.mu.Lock()
	defer k.mu.Unlock()
	s.Held, s.Floor = k.held, k.floor
	for _, about := range slices.Sorted(maps.Keys(k.concerns)) {
		s.Concerns = append(s.Concerns, k.concerns[about])
	}
	return s
}

// settingsFile is the Floor, in the keeper's directory.
const settingsFile = "phone.json"

const maxSettings = 64 << 10

func (k *Keeper) readFloor() (f runtime.PhoneFloor, err error) {
	path := filepath.Join(k.dir, settingsFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fault.Wrap(fault.Environment, err)
	}
	if len(text) > maxSettings {
		return f, fault.Errorf(fault.Environment, "%s is longer than %d bytes", path, maxSettings)
	}
	d, err := strictjson.Decode(strictjson.File{Name: path, Data: text, What: "floor", Hint: "remove the file, and set the floor again"}, &f)
	if err != nil {
		return f, err
	}
	if err := CheckFloor(f); err != nil {
		return f, d.Errorf("", "%w", err)
	}
	return f, nil
}

// CheckFloor refuses one that would never be reached, or always.
func CheckFloor(f runtime.PhoneFloor) error {
	switch {
	case f.Battery < 0 || f.Battery > 90:
		return fault.Errorf(fault.Usage, "a floor of %d %%: want 1 to 90, or 0 for none", f.Battery)
	case f.Celsius != 0 && (f.Celsius < 30 || f.Celsius > 70):
		return fault.Errorf(fault.Usage, "a limit of %d °C: want 30 to 70, or 0 for none", f.Celsius)
	}
	return nil
}

// SetFloor changes it, for now and for later boots.
func (k *Keeper) SetFloor(f runtime.PhoneFloor) error {
	if err := CheckFloor(f); err != nil {
		return err
	}
	text, err := json.Marshal(f)
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	if err := atomicfile.Write(filepath.Join(k.dir, settingsFile), append(text, '\n'), 0o600); err != nil {
		return err
	}
	k.mu.Lock()
	k.floor = f
	k.mu.Unlock()
	poke(k.looked)
	return nil
}

// SetPhantom switches the end of phantom processes off, or puts back what was.
func (k *Keeper) SetPhantom(ctx context.Context, off bool) error {
	if off {
		return k.run.phantomOff(ctx, k.dir)
	}
	return k.run.restorePhantom(ctx, k.dir)
}
