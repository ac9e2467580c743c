package box

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// store is what the framework keeps: the global settings, device_config, and
// whether its sync is off.
type store struct {
	Global map[string]string
	Config map[string]string // "namespace/key"
	Sync   string            // none, persistent, until_reboot
}

const storeFile = "/data/system/settings.json"

// withStore gives a program the store under a lock, and keeps what it made of
// it.
func withStore(f func(*store) error) error {
	if err := os.MkdirAll("/data/system", 0o755); err != nil {
		return err
	}
	unix.Umask(0)
	lock, err := os.OpenFile(storeFile+".lock", os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	s := &store{Global: map[string]string{}, Config: map[string]string{}, Sync: "none"}
	text, err := os.ReadFile(storeFile)
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := f(s); err != nil {
		return err
	}
	if text, err = json.Marshal(s); err != nil {
		return err
	}
	// In place: it stays whose it is, as with a service that has it.
	return os.WriteFile(storeFile, text, 0o666)
}

// framework says whether it is up: before that no service is to be found.
func framework(name string, stderr io.Writer) (Config, bool) {
	c, err := readConfig()
	if err != nil {
		failed(stderr, name, err)
		return c, false
	}
	if up, err := GetProp("", "sys.boot_completed"); err != nil || up != "1" {
		fmt.Fprintf(stderr, "cmd: Can't find service: %s\n", name)
		return c, false
	}
	return c, true
}

const notThere = 20 // cmd's exit code without a service

func null(value string, known bool) string {
	if !known {
		return "null"
	}
	return value
}

func settings(args []string, stdout, stderr io.Writer) int {
	if _, up := framework("settings", stderr); !up {
		return notThere
	}
	if len(args) < 3 || args[1] != "global" {
		//lint:ignore ST1005 these are Android's words
		return failed(stderr, "settings", errors.New("Invalid command"))
	}
	err := withStore(func(s *store) error {
		key := args[2]
		value, known := s.Global[key]
		switch {
		case args[0] == "get" && len(args) == 3:
			fmt.Fprintln(stdout, null(value, known))
		case args[0] == "put" && len(args) == 4:
			s.Global[key] = args[3]
		case args[0] == "delete" && len(args) == 3:
			n := 0
			if known {
				n = 1
			}
			delete(s.Global, key)
			fmt.Fprintf(stdout, "Deleted %d rows\n", n)
		default:
			//lint:ignore ST1005 these are Android's words
			return errors.New("Invalid command")
		}
		return nil
	})
	if err != nil {
		return failed(stderr, "settings", err)
	}
	return 0
}

func deviceConfig(args []string, stdout, stderr io.Writer) int {
	c, up := framework("device_config", stderr)
	if !up {
		return notThere
	}
	err := withStore(func(s *store) error {
		if len(args) == 0 {
			return errors.New("no command")
		}
		switch verb := args[0]; {
		case verb == "get" && len(args) == 3:
			value, known := s.Config[args[1]+"/"+args[2]]
			fmt.Fprintln(stdout, null(value, known))
		case verb == "put" && len(args) == 4:
			s.Config[args[1]+"/"+args[2]] = args[3]
		case verb == "delete" && len(args) == 3:
			delete(s.Config, args[1]+"/"+args[2])
			fmt.Fprintln(stdout, "Successfully deleted "+args[2]+" from "+args[1])
		case verb == "set_sync_disabled_for_tests" && len(args) == 2 && (args[1] == "none" || args[1] == "persistent" || args[1] == "until_reboot"):
			s.Sync = args[1]
		case verb == "get_sync_disabled_for_tests" && len(args) == 1 && c.SDK >= 33:
			fmt.Fprintln(stdout, s.Sync)
		case verb == "is_sync_disabled_for_tests" && len(args) == 1 && c.SDK < 33:
			fmt.Fprintln(stdout, s.Sync != "none")
		default:
			//lint:ignore ST1005 these are Android's words
			return fmt.Errorf("Invalid command: %s", verb)
		}
		return nil
	})
	if err != nil {
		return failed(stderr, "device_config", err)
	}
	return 0
}

// syncConfig is Google's services: without the switch they put device_config
// back.
func syncConfig() error {
	return withStore(func(s *store) error {
		if s.Sync == "none" {
			s.Config = map[string]string{}
		}
		return nil
	})
}

// resetSync ends what was to last until the reboot.
func resetSync() error {
	return withStore(func(s *store) error {
		if s.Sync == "until_reboot" {
			s.Sync = "none"
		}
		return nil
	})
}

func dumpsys(args []string, stdout, stderr io.Writer) int {
	if _, up := framework(strings.Join(args, " "), stderr); !up {
		return notThere
	}
	var err error
	switch strings.Join(args, " ") {
	case "activity settings":
		err = withStore(func(s *store) error {
			most := 32
			if v, err := strconv.Atoi(s.Config["activity_manager/max_phantom_processes"]); err == nil {
				most = v
			}
			_, err := fmt.Fprintf(stdout, "ACTIVITY MANAGER SETTINGS (dumpsys activity settings) activity_manager_constants:\n  max_cached_processes=60\n  max_phantom_processes=%d\n", most)
			return err
		})
	case "battery":
		err = battery(stdout)
	case "thermalservice":
		status, readErr := os.ReadFile("/dev/.thermal-status")
		if readErr != nil {
			status = []byte("0")
		}
		fmt.Fprintf(stdout, "IsStatusOverride: false\nThermal Status: %s\nCached temperatures:\n", strings.TrimSpace(string(status)))
	default:
		fmt.Fprintf(stderr, "Can't find service: %s\n", strings.Join(args, " "))
	}
	if err != nil {
		return failed(stderr, "dumpsys", err)
	}
	return 0
}

func battery(w io.Writer) error {
	read := func(name string) string {
		b, err := os.ReadFile("/sys/class/power_supply/battery/" + name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	status := map[string]int{"Charging": 2, "Discharging": 3, "Not charging": 4, "Full": 5}[read("status")]
	_, err := fmt.Fprintf(w, "Current Battery Service state:\n  AC powered: %t\n  status: %d\n  level: %s\n  scale: 100\n  temperature: %s\n", status == 2 || status == 5, status, read("capacity"), read("temp"))
	return err
}

func pm(args []string, stdout, stderr io.Writer) int {
	c, up := framework("package", stderr)
	if !up {
		return notThere
	}
	if len(args) != 2 || args[0] != "has-feature" {
		//lint:ignore ST1005 these are Android's words
		return failed(stderr, "pm", errors.New("Unknown command"))
	}
	has := args[1] == "android.software.virtualization_framework" && c.Hypervisor
	fmt.Fprintln(stdout, has)
	if !has {
		return 1
	}
	return 0
}
