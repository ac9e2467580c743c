package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/device"
)

// deviceVariable names the device of commands without --device.
const deviceVariable = "SOVEREIGN_DEVICE"

func (s *session) deviceCommand() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use:   "device",
		Short: "Put sovereignd on other computers and phones, and see to them",
		Long: `Device sees to the computers that machines run on. Every command about machines
takes --device, or the variable ` + deviceVariable + `:

  local          this computer, and the default
  ssh:HOST       a Linux computer, by your own ssh: HOST is what ssh takes, such
                 as USER@HOST or an alias of ~/.ssh/config
  adb:SERIAL     a rooted phone, by the adb server of this computer: SERIAL is
                 what "adb devices" lists
  exec:COMMAND   anything else: a shell command whose standard input and output
                 lead to "sovereignd connect"

All that touches a machine is done by the sovereignd of its device; only the
conversation with it is remote. Nothing listens at a port for it.`,
		Example: `  sovereign-build device install ssh:nas
  sovereign-build up sql --device ssh:nas
  sovereign-build device list
  sovereign-build device install adb:R58M12ABCDE
  sovereign-build device status ssh:nas`,
	})
	cmd.AddCommand(s.deviceListCommand(), s.deviceInstallCommand(), s.deviceStatusCommand(), s.deviceSetCommand(), s.deviceRemoveCommand())
	return exits(cmd)
}

// deviceFlag gives a command, or those below it, the flag --device.
func (s *session) deviceFlag(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		s.deviceFlag(sub)
	}
	if cmd.Name() == "serve" {
		return // it is of this computer
	}
	if cmd.HasSubCommands() && !strings.Contains(cmd.Use, " ") {
		return // it only holds others
	}
	cmd.Flags().StringVar(&s.device, "device", "", "the `device` of the machine: local, ssh:HOST, adb:SERIAL or exec:COMMAND (default: "+deviceVariable+", or local)")
	// The error is that of a flag which is not there.
	_ = cmd.RegisterFlagCompletionFunc("device", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return s.deviceNames(), cobra.ShellCompDirectiveNoFileComp
	})
}

// theDevice is what --device, or else the environment, says.
func (s *session) theDevice() (device.Device, error) {
	if s.device != "" {
		return device.Parse(s.device)
	}
	d, err := device.Parse(s.env(deviceVariable))
	if err != nil {
		return d, fault.Errorf(fault.Usage, "%s: %w", deviceVariable, err).Hintf("%s", fault.HintOf(err))
	}
	return d, nil
}

// deviceNames completes devices: local, and those that sovereignd was installed
// on.
func (s *session) deviceNames() []string {
	names := []string{device.Device{}.String()}
	known, err := knownDevices()
	if err != nil {
		return names // the command will say it
	}
	for _, d := range known {
		names = append(names, d.String())
	}
	return names
}

// The devices that sovereignd was installed on are lines of a file in the
// user's configuration. Nothing hangs on it but what is listed and completed.
const (
	devicesFile = "devices"
	maxDevices  = 1 << 20 // bytes
)

func devicesPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fault.Errorf(fault.Environment, "no place for the list of devices: %w", err).
			Hintf("set XDG_CONFIG_HOME or HOME")
	}
	return filepath.Join(dir, "sovereign", devicesFile), nil
}

func knownDevices() ([]device.Device, error) {
	path, err := devicesPath()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	return readDevices(path, f)
}

// readDevices reads a device a line; # begins a comment.
func readDevices(path string, r io.Reader) ([]device.Device, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDevices+1))
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if len(text) > maxDevices {
		return nil, fault.Errorf(fault.Usage, "%s is longer than %d bytes", path, maxDevices)
	}
	var known []device.Device
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		d, err := device.Parse(line)
		if err != nil {
			return nil, fault.Errorf(fault.Usage, "%s:%d: %w", path, n, err).Hintf("%s", fault.HintOf(err))
		}
		if !d.Local() && !slices.Contains(known, d) {
			known = append(known, d)
		}
	}
	return known, nil
}

// rememberDevice adds a device to the list, or takes it off. What else is in
// the file stays.
func rememberDevice(ctx context.Context, d device.Device, there bool) error {
	path, err := devicesPath()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	lock, err := flock.AcquireDir(ctx, dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	known, err := knownDevices()
	if err != nil {
		return err
	}
	if slices.Contains(known, d) == there {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(fault.Environment, err)
	}
	var out bytes.Buffer
	for line := range bytes.Lines(text) {
		if string(bytes.TrimSpace(line)) != d.String() {
			out.Write(line)
		}
	}
	if there {
		if n := out.Len(); n > 0 && out.Bytes()[n-1] != '\n' {
			out.WriteByte('\n')
		}
		fmt.Fprintln(&out, d)
	}
	return atomicfile.Write(path, out.Bytes(), 0o600)
}
