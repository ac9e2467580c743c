// Package cmdline reads the kernel command line as far as sovereign-init is
// concerned: in comes the text of /proc/cmdline, out goes a Line with checked
// values. It knows nothing of devices and never guesses a missing value.
//
// The parameters are
//
//	roothash=HEX            dm-verity root hash, 64 hex digits (SHA-256)
//	root.serial=SERIAL      virtio serial of the root disk
//	data.serial=SERIAL      virtio serial of the data disk
//	sovereign.net=DEV,ADDRESS/PREFIX,GATEWAY,DNS[;DNS…]
//	sovereign.net=DEV,ADDRESS/PREFIX,GATEWAY
//	sovereign.net=DEV,dhcp
//	sovereign.probe         print ProbeLine and power off
//	panic=SECONDS           the kernel's own; not 0: reboot instead of power off after a failure
package cmdline

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// ProbeLine is printed on the console when sovereign.probe is given.
const ProbeLine = "sovereign-probe: ok"

const (
	maxLine   = 16 << 10 // bytes; the kernel's own limit is 2 to 4 KiB
	maxSerial = 20       // bytes, virtio-blk's VIRTIO_BLK_ID_BYTES
	maxDevice = 15       // bytes, IFNAMSIZ-1
	maxDNS    = 3        // as resolv.conf(5)
)

// Line is what sovereign-init takes from the command line. Absent parameters
// have zero values.
type Line struct {
	RootHash   []byte // 32 bytes
	RootSerial string
	DataSerial string
	Net        *Net
	Probe      bool
	Panic      string // value of panic=
}

// Net is the network configuration of one device.
type Net struct {
	Device  string
	DHCP    bool
	Address netip.Prefix // the guest's own address with its prefix length
	Gateway netip.Addr   // invalid: none
	DNS     []netip.Addr // at most 3
}

// Parse reads a command line. Of a repeated parameter the last one counts, as
// in the kernel.
func Parse(text string) (Line, error) {
	if len(text) > maxLine {
		return Line{}, fmt.Errorf("kernel command line: over %d bytes", maxLine)
	}
	var l Line
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "roothash":
			l.RootHash, err = rootHash(value)
		case "root.serial":
			l.RootSerial, err = serial(value)
		case "data.serial":
			l.DataSerial, err = serial(value)
		case "sovereign.net":
			l.Net, err = parseNet(value)
		case "sovereign.probe":
			l.Probe = true
		case "panic":
			l.Panic = value
		}
		if err != nil {
			return Line{}, fmt.Errorf("kernel command line: %s=%q: %w", key, value, err)
		}
	}
	return l, nil
}

func rootHash(v string) ([]byte, error) {
	b, err := hex.DecodeString(v)
	if err != nil || len(b) != 32 {
		return nil, fmt.Errorf("want 64 hex digits")
	}
	return b, nil
}

func serial(v string) (string, error) {
	if v == "" || len(v) > maxSerial {
		return "", fmt.Errorf("want 1 to %d bytes", maxSerial)
	}
	return v, nil
}

func parseNet(v string) (*Net, error) {
	f := strings.Split(v, ",")
	n := &Net{Device: f[0]}
	if n.Device == "" || len(n.Device) > maxDevice || strings.ContainsAny(n.Device, "/:") || n.Device == "." || n.Device == ".." {
		return nil, fmt.Errorf("device name: want 1 to %d bytes, none of them a slash or colon", maxDevice)
	}
	if len(f) == 2 && f[1] == "dhcp" {
		n.DHCP = true
		return n, nil
	}
	if len(f) != 3 && len(f) != 4 {
		return nil, fmt.Errorf("want DEVICE,ADDRESS/PREFIX,GATEWAY[,DNS[;DNS]] or DEVICE,dhcp")
	}
	var err error
	if n.Address, err = netip.ParsePrefix(f[1]); err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	if f[2] != "" {
		if n.Gateway, err = netip.ParseAddr(f[2]); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
		if n.Gateway.Is4() != n.Address.Addr().Is4() || n.Gateway.Zone() != "" {
			return nil, fmt.Errorf("gateway: want an address of the same family, without a zone")
		}
	}
	if len(f) == 4 {
		servers := strings.Split(f[3], ";")
		if len(servers) > maxDNS {
			return nil, fmt.Errorf("dns: want at most %d servers", maxDNS)
		}
		for _, s := range servers {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fmt.Errorf("dns: %w", err)
			}
			n.DNS = append(n.DNS, a)
		}
	}
	return n, nil
}
