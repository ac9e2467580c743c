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
//	sovereign.net6=DEV,ADDRESS/PREFIX,GATEWAY[,DNS[;DNS…]]
//	sovereign.net6=DEV,auto[,DNS[;DNS…]]
//	sovereign.ntp=SERVER[;SERVER…]
//	sovereign.continuity=LINEAGE:EPOCH:HASH
//	sovereign.clone=ID      the data disk is a copy of another machine's: 32 hex digits
//	sovereign.recovery=SERIAL  virtio serial of the disk with logs that services replay
//	sovereign.key=SERIAL    virtio serial of the disk with the machine's key: the host comes over vsock
//	sovereign.tap=DEV,MAC,MTU  a network card whose frames come over vsock; needs sovereign.key
//	sovereign.probe         print ProbeLine and power off
//	panic=SECONDS           the kernel's own; not 0: reboot instead of power off after a failure
//
// An address is of either family in sovereign.net, and of IPv6 in
// sovereign.net6, which comes beside it; GATEWAY may be empty. With auto the
// kernel takes addresses and routes from router advertisements. It does so by
// itself on a device with dhcp, and not on one with only a static address. NTP
// servers are names or addresses; those of a DHCP server come after them.
package cmdline

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

// ProbeLine is printed on the console when sovereign.probe is given.
const ProbeLine = "sovereign-probe: ok"

const (
	maxLine   = 16 << 10 // bytes; the kernel's own limit is 2 to 4 KiB
	maxSerial = 20       // bytes, virtio-blk's VIRTIO_BLK_ID_BYTES
	maxDevice = 15       // bytes, IFNAMSIZ-1
	maxDNS    = 3        // as resolv.conf(5)
	maxNTP    = 4
	maxName   = 253   // bytes of a DNS name
	minMTU    = 1280  // the least that IPv6 works with
	maxMTU    = 65520 // of the host's network
)

// Line is what sovereign-init takes from the command line. Absent parameters
// have zero values.
type Line struct {
	RootHash   []byte // 32 bytes
	RootSerial string
	DataSerial string
	Net        *Net
	Net6       *Net     // a static IPv6 address, or Auto
	NTP        []string // at most 4 names or addresses
	KeySerial  string   // of the disk with the machine's key; "": the host comes by a virtio-serial port
	Tap        *Tap     // the card that vsock carries; nil: none
	Probe      bool
	Witness    *continuity.Witness // what the host remembers of the data disk
	Clone      string              // of which copy the data disk is the first
	Recovery   string              // serial of the disk with logs to replay; "": none
	Panic      string              // value of panic=
}

// Net is the network configuration of one device.
type Net struct {
	Device  string
	DHCP    bool
	Auto    bool         // IPv6 by router advertisements
	Address netip.Prefix // the guest's own address with its prefix length
	Gateway netip.Addr   // invalid: none
	DNS     []netip.Addr // at most 3
	NTP     []netip.Addr // of a DHCP server, at most 4
}

// Tap is a network card without a device of the hypervisor's.
type Tap struct {
	Device string
	MAC    net.HardwareAddr // 6 bytes, not a group's
	MTU    int              // bytes
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
		case "sovereign.net6":
			l.Net6, err = parseNet6(value)
		case "sovereign.ntp":
			l.NTP, err = parseNTP(value)
		case "sovereign.continuity":
			var w continuity.Witness
			if w, err = continuity.ParseWitness(value); err == nil {
				l.Witness = &w
			}
		case "sovereign.clone":
			if l.Clone = value; !continuity.IsID(value) {
				err = fmt.Errorf("want 32 hex digits")
			}
		case "sovereign.recovery":
			l.Recovery, err = serial(value)
		case "sovereign.key":
			l.KeySerial, err = serial(value)
		case "sovereign.tap":
			l.Tap, err = parseTap(value)
		case "sovereign.probe":
			l.Probe = true
		case "panic":
			l.Panic = value
		}
		if err != nil {
			return Line{}, fmt.Errorf("kernel command line: %s=%q: %w", key, value, err)
		}
	}
	if l.Tap != nil && l.KeySerial == "" {
		return Line{}, fmt.Errorf("kernel command line: sovereign.tap=%s: it needs sovereign.key, with which its host proves itself", l.Tap.Device)
	}
	return l, nil
}

func parseTap(v string) (*Tap, error) {
	f := strings.Split(v, ",")
	if len(f) != 3 {
		return nil, fmt.Errorf("want DEVICE,MAC,MTU")
	}
	n, err := device(f[0])
	if err != nil {
		return nil, err
	}
	t := &Tap{Device: n.Device}
	if t.MAC, err = net.ParseMAC(f[1]); err != nil || len(t.MAC) != 6 || t.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("hardware address: want 6 bytes in hex, with colons, and not a group's")
	}
	if t.MTU, err = strconv.Atoi(f[2]); err != nil || t.MTU < minMTU || t.MTU > maxMTU {
		return nil, fmt.Errorf("MTU: want %d to %d bytes", minMTU, maxMTU)
	}
	return t, nil
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
	n, err := device(f[0])
	if err != nil {
		return nil, err
	}
	if len(f) == 2 && f[1] == "dhcp" {
		n.DHCP = true
		return n, nil
	}
	if len(f) != 3 && len(f) != 4 {
		return nil, fmt.Errorf("want DEVICE,ADDRESS/PREFIX,GATEWAY[,DNS[;DNS]] or DEVICE,dhcp")
	}
	return n, n.static(f[1:])
}

func parseNet6(v string) (*Net, error) {
	f := strings.Split(v, ",")
	n, err := device(f[0])
	if err != nil {
		return nil, err
	}
	if (len(f) == 2 || len(f) == 3) && f[1] == "auto" {
		n.Auto = true
		if len(f) == 3 {
			n.DNS, err = addresses("dns", f[2], maxDNS)
		}
		return n, err
	}
	if len(f) != 3 && len(f) != 4 {
		return nil, fmt.Errorf("want DEVICE,ADDRESS/PREFIX,GATEWAY[,DNS[;DNS]] or DEVICE,auto[,DNS[;DNS]]")
	}
	if err := n.static(f[1:]); err != nil {
		return nil, err
	}
	if n.Address.Addr().Is4() {
		return nil, fmt.Errorf("address: want IPv6; an IPv4 address goes into sovereign.net")
	}
	return n, nil
}

func device(name string) (*Net, error) {
	if name == "" || len(name) > maxDevice || strings.ContainsAny(name, "/:") || name == "." || name == ".." {
		return nil, fmt.Errorf("device name: want 1 to %d bytes, none of them a slash or colon", maxDevice)
	}
	return &Net{Device: name}, nil
}

// static reads ADDRESS/PREFIX, GATEWAY and perhaps DNS.
func (n *Net) static(f []string) (err error) {
	if n.Address, err = netip.ParsePrefix(f[0]); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if f[1] != "" {
		if n.Gateway, err = netip.ParseAddr(f[1]); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		if n.Gateway.Is4() != n.Address.Addr().Is4() || n.Gateway.Zone() != "" {
			return fmt.Errorf("gateway: want an address of the same family, without a zone")
		}
	}
	if len(f) == 3 {
		n.DNS, err = addresses("dns", f[2], maxDNS)
	}
	return err
}

func addresses(what, v string, most int) (list []netip.Addr, err error) {
	words := strings.Split(v, ";")
	if len(words) > most {
		return nil, fmt.Errorf("%s: want at most %d servers", what, most)
	}
	for _, w := range words {
		a, err := netip.ParseAddr(w)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		list = append(list, a)
	}
	return list, nil
}

func parseNTP(v string) ([]string, error) {
	words := strings.Split(v, ";")
	if len(words) > maxNTP {
		return nil, fmt.Errorf("want at most %d servers", maxNTP)
	}
	for _, w := range words {
		if _, err := netip.ParseAddr(w); err != nil && !isName(w) {
			return nil, fmt.Errorf("%q is neither a name nor an address", w)
		}
	}
	return words, nil
}

// isName says whether s may be a DNS name.
func isName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, c := range s {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}
