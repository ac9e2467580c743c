package live

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/kernel"
)

// What a guest says is parsed here, with limits: it may be a guest that somebody
// has taken over. It can still lie; it cannot do more.
const (
	maxFiles   = 10_000
	maxDevices = 256
	maxLines   = 100_000
)

func parseConfig(packed []byte) (*kernel.Config, error) {
	const name = "/proc/config.gz"
	text, err := kernel.Decompress(name, bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	c, err := kernel.ParseConfig(name, text)
	if err == nil && c.Len() == 0 {
		err = fmt.Errorf("%s sets no symbol", name)
	}
	return c, err
}

// parseFiles reads lines "SIZE MODE NAME", of executables and of ICU's data.
func parseFiles(list []byte) (executables, data []audit.File, err error) {
	for line := range strings.Lines(string(list)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(f) != 3 || !strings.HasPrefix(f[2], "/") {
			return nil, nil, fmt.Errorf("%.100q is no size, mode and name of a file", line)
		}
		size, sizeErr := strconv.ParseInt(f[0], 10, 64)
		mode, modeErr := strconv.ParseUint(f[1], 8, 16)
		if sizeErr != nil || modeErr != nil || size < 0 {
			return nil, nil, fmt.Errorf("%.100q is no size, mode and name of a file", line)
		}
		if len(executables)+len(data) == maxFiles {
			return nil, nil, fmt.Errorf("more than %d files", maxFiles)
		}
		if mode&0o100 != 0 && size > 0 {
			executables = append(executables, audit.File{Path: f[2], Size: size})
		}
		if base := path.Base(f[2]); strings.HasPrefix(base, "icudt") && strings.HasSuffix(base, ".dat") {
			data = append(data, audit.File{Path: f[2], Size: size})
		}
	}
	return executables, data, nil
}

// parsePrograms takes apart what is the first bytes of each file, one behind the
// other.
func parsePrograms(files []audit.File, heads []byte) ([]audit.Program, error) {
	var programs []audit.Program
	for _, f := range files {
		n := min(f.Size, audit.HeadSize)
		if n > int64(len(heads)) {
			return nil, fmt.Errorf("the contents of the programs end at %s", f.Path)
		}
		if p, ok := audit.ParseProgram(f.Path, heads[:n]); ok {
			programs = append(programs, p)
		}
		heads = heads[n:]
	}
	if len(heads) > 0 {
		return nil, fmt.Errorf("%d bytes more than the programs have", len(heads))
	}
	return programs, nil
}

// parseDevices reads lines "NAME ID DRIVER- BUS FEATURES".
func parseDevices(text []byte) ([]audit.Device, error) {
	var all []audit.Device
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 5 || len(all) == maxDevices {
			return nil, fmt.Errorf("%.100q is no device, or one too many", line)
		}
		id, err := strconv.ParseUint(f[1], 0, 16)
		if err != nil {
			return nil, fmt.Errorf("the type of a device: %w", err)
		}
		if strings.Trim(f[4], "01") != "" || len(f[4]) > 256 {
			return nil, fmt.Errorf("%.100q are no features", f[4])
		}
		all = append(all, audit.Device{Name: f[0], ID: int(id), Driver: strings.TrimSuffix(f[2], "-"), PCI: f[3] == "pci", Features: f[4]})
	}
	if len(all) == 0 {
		return nil, errors.New("the guest has no virtio device at all")
	}
	return all, nil
}

var logForm = regexp.MustCompile(`^\[ *(\d{1,9})\.(\d{6})\] (.*)$`)

// parseLog reads dmesg's lines; one without a time belongs to the one before.
func parseLog(text []byte) []audit.LogLine {
	var all []audit.LogLine
	for line := range strings.Lines(string(text)) {
		if len(all) == maxLines {
			break
		}
		line = strings.TrimRight(line, "\r\n")
		var at time.Duration
		if m := logForm.FindStringSubmatch(line); m != nil {
			// So many digits are numbers.
			s, _ := strconv.ParseInt(m[1], 10, 64)
			us, _ := strconv.ParseInt(m[2], 10, 64)
			at, line = time.Duration(s)*time.Second+time.Duration(us)*time.Microsecond, m[3]
		} else if len(all) > 0 {
			at = all[len(all)-1].At
		}
		all = append(all, audit.LogLine{At: at, Text: line})
	}
	return all
}

// parseListeners reads /proc/net/tcp and tcp6 (proc(5)): the state 0A listens.
func parseListeners(text []byte) ([]audit.Listener, error) {
	const listens = "0A"
	var all []audit.Listener
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 8 || f[3] != listens {
			continue
		}
		i := strings.LastIndexByte(f[1], ':')
		port, err := strconv.ParseUint(f[1][i+1:], 16, 16)
		uid, uidErr := strconv.ParseUint(f[7], 10, 32)
		if i < 0 || err != nil || uidErr != nil {
			return nil, fmt.Errorf("%.100q is no socket", line)
		}
		if len(all) == maxLines {
			return nil, fmt.Errorf("more than %d sockets", maxLines)
		}
		all = append(all, audit.Listener{Port: int(port), UID: int(uid)})
	}
	return all, nil
}

// parseTimes reads "TIMES HUNDREDTHS".
func parseTimes(text []byte) (times int, took time.Duration, err error) {
	f := strings.Fields(string(text))
	if len(f) != 2 {
		return 0, 0, fmt.Errorf("%.100q are not a number and a time", text)
	}
	n, err := strconv.ParseUint(f[0], 10, 16)
	if err != nil {
		return 0, 0, err
	}
	hundredths, err := strconv.ParseUint(f[1], 10, 32)
	return int(n), time.Duration(hundredths) * 10 * time.Millisecond, err
}

// parseTailnet reads tailscale's status and, where it is given, its serve
// configuration (tailscale.com/ipn.ServeConfig).
func parseTailnet(status, serve []byte) (t audit.Tailnet, err error) {
	var s struct {
		BackendState string
		TUN          bool
	}
	if err := json.Unmarshal(status, &s); err != nil {
		return t, fmt.Errorf("tailscale status: %w", err)
	}
	t.State, t.Kernel = s.BackendState, s.TUN
	if len(bytes.TrimSpace(serve)) == 0 {
		return t, nil
	}
	var config struct {
		TCP map[uint16]struct{ TCPForward string }
	}
	if err := json.Unmarshal(serve, &config); err != nil {
		return t, fmt.Errorf("tailscale serve status: %w", err)
	}
	t.Served = map[int]string{}
	for port, v := range config.TCP {
		if v.TCPForward != "" {
			t.Served[int(port)] = v.TCPForward
		}
	}
	return t, nil
}
