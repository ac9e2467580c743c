package android

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/strictjson"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Android ends processes that apps have started, when there are more than 32 of
// them together ("phantom processes"). A daemon of root's is none; what runs
// below an app, in Termux say, is. There are three switches:
//
//   - the global setting, from 12L on, which wins over the property;
//   - the property of the developer options' "Disable child process
//     restrictions", from 14 on, for the setting where that is not set;
//   - the limit in device_config, all there is on 12; Google's services put it
//     back within minutes unless their sync is off.
const (
	phantomSetting  = "settings_enable_monitor_phantom_procs"
	phantomProperty = "persist.sys.fflag.override.settings_enable_monitor_phantom_procs"
	phantomSpace    = "activity_manager"
	phantomKey      = "max_phantom_processes"
	phantomMost     = "2147483647"

	sdk12L = 32
	sdk13  = 33
	sdk14  = 34
)

// null is what settings and device_config print for what is not set.
const null = "null"

// Phantom is the switches as they are, or were.
type Phantom struct {
	// Setting and Limit are "null" where they are not set, as Android prints it.
	Setting  string `json:"setting"`
	Property string `json:"property"` // "" where it is not set
	Limit    string `json:"limit"`
	Sync     string `json:"sync"` // of device_config: none, persistent, until_reboot
}

// recordFile has them as they were before this program changed them.
const recordFile = "phantom-processes.json"

const maxRecord = 64 << 10

func (run runner) phantom(ctx context.Context) (p Phantom, err error) {
	sdk, err := run.sdk(ctx)
	if err != nil {
		return p, err
	}
	if p.Setting, err = run(ctx, "settings", "get", "global", phantomSetting); err != nil {
		return p, err
	}
	if p.Property, err = run.property(ctx, phantomProperty); err != nil {
		return p, err
	}
	if p.Limit, err = run(ctx, "device_config", "get", phantomSpace, phantomKey); err != nil {
		return p, err
	}
	if sdk >= sdk13 {
		p.Sync, err = run(ctx, "device_config", "get_sync_disabled_for_tests")
		return p, err
	}
	off, err := run(ctx, "device_config", "is_sync_disabled_for_tests")
	if p.Sync = "none"; off == "true" {
		p.Sync = "persistent" // which of the two, 12 does not say
	}
	return p, err
}

// off says whether nothing ends phantom processes.
func (p Phantom) off(sdk int) bool {
	if sdk >= sdk12L {
		if p.Setting != null {
			return p.Setting == "false" || p.Setting == "0"
		}
		if sdk >= sdk14 && p.Property == "false" {
			return true
		}
	}
	return p.Limit == phantomMost && p.Sync != "none"
}

// phantomOff has Android end no phantom process any more, and writes down in dir
// how it was before. It reads back what it has set.
func (run runner) phantomOff(ctx context.Context, dir string) error {
	sdk, err := run.sdk(ctx)
	if err != nil {
		return err
	}
	before, err := run.phantom(ctx)
	if err != nil {
		return err
	}
	if before.off(sdk) {
		return nil
	}
	path := filepath.Join(dir, recordFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		text, err := json.Marshal(before)
		if err != nil {
			return fault.Wrap(fault.Internal, err)
		}
		if err := atomicfile.Write(path, append(text, '\n'), 0o600); err != nil {
			return err
		}
	} else if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if sdk >= sdk12L {
		_, err = run(ctx, "settings", "put", "global", phantomSetting, "false")
	} else {
		// Sync first: it would put back the limit.
		if _, err = run(ctx, "device_config", "set_sync_disabled_for_tests", "persistent"); err == nil {
			_, err = run(ctx, "device_config", "put", phantomSpace, phantomKey, phantomMost)
		}
	}
	if err != nil {
		return err
	}
	if sdk >= sdk14 && before.Property == "true" {
		// The setting wins; this is so that nobody is told otherwise.
		if _, err := run(ctx, "setprop", phantomProperty, "false"); err != nil {
			return err
		}
	}
	after, err := run.phantom(ctx)
	if err == nil && !after.off(sdk) {
		err = fault.Errorf(fault.Environment, "the phone does not keep the switch of phantom processes: it says %s", after)
	}
	return err
}

func (p Phantom) String() string {
	return fmt.Sprintf("setting %s, property %q, limit %s, sync %s", p.Setting, p.Property, p.Limit, p.Sync)
}

// restorePhantom puts back what the record has, and removes it.
func (run runner) restorePhantom(ctx context.Context, dir string) error {
	path := filepath.Join(dir, recordFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	before, err := parsePhantom(path, text)
	if err != nil {
		return err
	}
	now, err := run.phantom(ctx)
	if err != nil {
		return err
	}
	back := func(was, is string, unset []string, set ...string) error {
		if was == is {
			return nil
		}
		if was == null && unset != nil {
			_, err := run(ctx, unset[0], unset[1:]...)
			return err
		}
		_, err := run(ctx, set[0], append(set[1:], was)...)
		return err
	}
	err = errors.Join(
		back(before.Setting, now.Setting, []string{"settings", "delete", "global", phantomSetting}, "settings", "put", "global", phantomSetting),
		back(before.Limit, now.Limit, []string{"device_config", "delete", phantomSpace, phantomKey}, "device_config", "put", phantomSpace, phantomKey),
		back(before.Sync, now.Sync, nil, "device_config", "set_sync_disabled_for_tests"),
		back(before.Property, now.Property, nil, "setprop", phantomProperty),
	)
	if err != nil {
		return err
	}
	return fault.Wrap(fault.Environment, os.Remove(path))
}

// parsePhantom reads a record.
func parsePhantom(path string, text []byte) (p Phantom, err error) {
	if len(text) > maxRecord {
		return p, fault.Errorf(fault.Environment, "%s is longer than %d bytes", path, maxRecord)
	}
	d, err := strictjson.Decode(strictjson.File{Name: path, Data: text, What: "record of phantom processes", Hint: "put the settings back by hand, as docs/phone.md has it, and remove the file"}, &p)
	if err != nil {
		return p, err
	}
	switch p.Sync {
	case "none", "persistent", "until_reboot":
	default:
		return p, d.Errorf("sync", "%.20q: want none, persistent or until_reboot", p.Sync)
	}
	for key, v := range map[string]string{"setting": p.Setting, "limit": p.Limit, "property": p.Property} {
		if len(v) > 91 || v == "" && key != "property" || strings.HasPrefix(v, "-") || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
			return p, d.Errorf(key, "%.20q is no value of a switch", v)
		}
	}
	return p, nil
}

// Undo puts back all that was changed on the phone: the switches that dir has a
// record of, and the wake lock; and it removes the settings that dir has.
func Undo(ctx context.Context, dir string) error {
	r := root("/")
	var err error
	if r.awake() {
		err = r.wake(false)
	}
	if removeErr := os.Remove(filepath.Join(dir, settingsFile)); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return errors.Join(err, runner(command).restorePhantom(ctx, dir))
}
