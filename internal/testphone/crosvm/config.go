package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// config is what a command line asks for, checked as crosvm does.
type config struct {
	kernel, initrd, bios string
	params               []string
	memMiB, swiotlbMiB   uint64
	cpus                 int
	name                 string
	cid                  uint64 // 0: no vsock
	socket               string
	blocks               []block
	serials              []serial
	nets                 []card
	protected            bool
	hypervisor           string
	noBalloon, reporting bool
	noRNG                bool
	disableSandbox       bool
}

type block struct {
	path             string
	ro, root, sparse bool
	lock             bool
	id               string
}

type serial struct {
	kind, hardware, path     string
	num                      int
	console, earlycon, stdin bool
	input                    string
}

type card struct{ tapName, tapFD string }

// readValues reads the values of the single options. What a value breaks by itself
// is the parser's business.
func readValues(profile string, v values, rest []string) (c config, err error) {
	if len(rest) > 1 {
		return c, badf("Unrecognized argument: %s", rest[1])
	}
	if len(rest) == 1 {
		c.kernel = rest[0]
	}
	c.memMiB, c.cpus = 256, 1
	c.initrd, c.bios, c.name, c.socket, c.params = v.one("initrd"), v.one("bios"), v.one("name"), v.one("socket"), v["params"]
	c.noBalloon, c.reporting, c.noRNG = v.has("no-balloon"), v.has("balloon-page-reporting"), v.has("no-rng")
	c.disableSandbox = v.has("disable-sandbox")
	bad := func(option, value string, err error) error {
		return badf("Error parsing option '--%s' with value '%s': %v", option, value, err)
	}
	for _, o := range []struct {
		name string
		read func(text string) error
	}{
		{"mem", func(t string) error { return readNumber(t, "size", &c.memMiB) }},
		{"swiotlb", func(t string) (err error) { c.swiotlbMiB, err = strconv.ParseUint(t, 10, 64); return err }},
		{"init-mem", func(t string) error { _, err := strconv.ParseUint(t, 10, 64); return err }},
		{"cpus", func(t string) error { return c.readCPUs(profile, t) }},
		{"vsock", c.readVsock},
		{"cid", func(t string) (err error) { c.cid, err = strconv.ParseUint(t, 10, 64); return err }},
		{"hypervisor", c.readHypervisor},
		{"pci", func(t string) error {
			list, err := keyValues(t, "")
			if err == nil {
				_, err = fields(list, "mem", "cam")
			}
			return err
		}},
		{"pstore", func(t string) error {
			list, err := keyValues(t, "")
			if err == nil {
				_, err = fields(list, "path", "size")
			}
			return err
		}},
		{"block", c.readBlock},
		{"serial", c.readSerial},
		{"net", c.readNet},
	} {
		for _, text := range v[o.name] {
			if err := o.read(text); err != nil {
				return c, bad(o.name, text, err)
			}
		}
	}
	return c, nil
}

func readNumber(text, key string, to *uint64) error {
	list, err := keyValues(text, key)
	if err != nil {
		return err
	}
	m, err := fields(list, key)
	if err == nil {
		*to, err = number(m[key])
	}
	return err
}

func (c *config) readCPUs(profile, text string) error {
	list, err := keyValues(text, "num-cores")
	if err != nil {
		return err
	}
	m, err := fields(list, "num-cores", "clusters", "cpu-affinity", "boot-cpu", "freq-domains", "sve", "mte", "core-types", "dynamic-power-coefficient", "capacity")
	if err != nil {
		return err
	}
	if sve := m["sve"]; sve != "" {
		want := "[auto="
		if profile == "early-sve" {
			want = "[enabled="
		}
		if !strings.HasPrefix(sve, want) {
			return fmt.Errorf("sve: unknown field, expected %s…]", want)
		}
	}
	if t, ok := m["num-cores"]; ok {
		n, err := number(t)
		if err != nil || n < 1 || n > 1024 {
			return fmt.Errorf("num-cores: %q", t)
		}
		c.cpus = int(n)
	}
	return nil
}

func (c *config) readVsock(text string) error {
	list, err := keyValues(text, "cid")
	if err != nil {
		return err
	}
	m, err := fields(list, "cid", "device", "max-queue-sizes")
	if err == nil && m["cid"] == "" {
		err = fmt.Errorf("missing field `cid`")
	}
	if err == nil {
		c.cid, err = number(m["cid"])
	}
	return err
}

func (c *config) readHypervisor(text string) error {
	name, _, _ := strings.Cut(text, "[")
	known := []string{"kvm", "gunyah", "geniezone"} // a phone's, on any host of the tests
	if !slices.Contains(known, name) {
		return fmt.Errorf("unknown variant `%s`, expected one of %s", name, strings.Join(known, ", "))
	}
	c.hypervisor = name
	return nil
}

func (c *config) readBlock(text string) (err error) {
	list, err := keyValues(text, "path")
	if err != nil {
		return err
	}
	m, err := fields(list, "path", "ro", "root", "sparse", "direct", "o_direct", "lock", "block-size", "block_size", "id",
		"multiple-workers", "async-executor", "packed-queue", "bootindex", "pci-address")
	if err != nil {
		return err
	}
	b := block{path: m["path"], id: m["id"]}
	if b.path == "" {
		return fmt.Errorf("missing field `path`")
	}
	if len(b.id) > 20 {
		return fmt.Errorf("id: the disk identifier has more than 20 bytes")
	}
	for key, to := range map[string]*bool{"ro": &b.ro, "root": &b.root} {
		if *to, err = boolean(m, key, false); err != nil {
			return err
		}
	}
	for key, to := range map[string]*bool{"sparse": &b.sparse, "lock": &b.lock} {
		if *to, err = boolean(m, key, true); err != nil {
			return err
		}
	}
	if size, ok := m["block-size"]; ok {
		if n, err := number(size); err != nil || n < 512 || n&(n-1) != 0 {
			return fmt.Errorf("block-size: %q", size)
		}
	}
	c.blocks = append(c.blocks, b)
	return nil
}

func (c *config) readSerial(text string) (err error) {
	list, err := keyValues(text, "")
	if err != nil {
		return err
	}
	m, err := fields(list, "type", "hardware", "num", "path", "input", "input-unix-stream", "console", "earlycon", "stdin",
		"name", "out-timestamp", "pci-address", "max-queue-sizes", "debugcon_port")
	if err != nil {
		return err
	}
	s := serial{kind: m["type"], hardware: m["hardware"], path: m["path"], input: m["input"], num: 1}
	if s.kind == "" {
		s.kind = "sink"
	}
	if s.hardware == "" {
		s.hardware = "serial"
	}
	if !slices.Contains([]string{"file", "stdout", "sink", "syslog", "unix", "unix-stream"}, s.kind) {
		return fmt.Errorf("type: unknown variant `%s`", s.kind)
	}
	if !slices.Contains([]string{"serial", "virtio-console", "debugcon", "legacy-virtio-console"}, s.hardware) {
		return fmt.Errorf("hardware: unknown variant `%s`", s.hardware)
	}
	if t, ok := m["num"]; ok {
		n, err := number(t)
		if err != nil {
			return err
		}
		s.num = int(n)
	}
	for key, to := range map[string]*bool{"console": &s.console, "earlycon": &s.earlycon, "stdin": &s.stdin} {
		if *to, err = boolean(m, key, false); err != nil {
			return err
		}
	}
	switch {
	case s.num < 1, s.hardware == "serial" && s.num > 4:
		return fmt.Errorf("serial port number %d is out of range", s.num)
	case s.stdin && s.input != "":
		return fmt.Errorf("cannot specify both `stdin` and `input` options")
	case m["pci-address"] != "" && s.hardware != "virtio-console":
		return fmt.Errorf("`pci-address` is only allowed for virtio-console")
	}
	c.serials = append(c.serials, s)
	return nil
}

func (c *config) readNet(text string) error {
	list, err := keyValues(text, "")
	if err != nil {
		return err
	}
	m, err := fields(list, "tap-name", "tap-fd", "host-ip", "netmask", "mac", "vhost-net", "vq-pairs", "packed-queue", "pci-address", "mrg-rxbuf")
	if err != nil {
		return err
	}
	modes := 0
	for _, key := range []string{"tap-name", "tap-fd", "host-ip"} {
		if m[key] != "" {
			modes++
		}
	}
	if modes != 1 || (m["host-ip"] != "") != (m["netmask"] != "") {
		return fmt.Errorf("net: exactly one of tap-name, tap-fd, or host-ip with netmask and mac")
	}
	c.nets = append(c.nets, card{m["tap-name"], m["tap-fd"]})
	return nil
}

// contradictions are what options say against each other: exit code 1.
func (c *config) contradictions(v values) error {
	modes := 0
	for _, o := range []string{"protected-vm", "protected-vm-with-firmware", "protected-vm-without-firmware", "unprotected-vm-with-firmware"} {
		if v.has(o) {
			modes++
		}
	}
	c.protected = v.has("protected-vm") || v.has("protected-vm-with-firmware") || v.has("protected-vm-without-firmware")
	if c.protected && c.swiotlbMiB == 0 {
		c.swiotlbMiB = 64
	}
	switch {
	case c.kernel != "" && c.bios != "":
		return fmt.Errorf("Only one of KERNEL and --bios can be specified")
	case c.kernel == "" && c.bios == "":
		return fmt.Errorf("Executable is not specified")
	case modes > 1:
		return fmt.Errorf("Only one protection mode has to be specified")
	case v.has("cid") && v.has("vsock"):
		return fmt.Errorf("`cid` and `vsock` cannot be specified together")
	case c.reporting && c.noBalloon:
		return fmt.Errorf("'balloon-page-reporting' requires enabled balloon")
	case v.has("unmap-guest-memory-on-fork") && !c.disableSandbox:
		return fmt.Errorf("--unmap-guest-memory-on-fork requires --disable-sandbox")
	case v.has("suspended") && v.has("gdb"):
		return fmt.Errorf("suspended mode not supported with GDB")
	case v.has("host-cpu-topology") && v.has("cpus") && c.cpus != runtime.NumCPU():
		return fmt.Errorf("`host-cpu-topology` requires the count of vCPUs(%d) to equal the count of CPUs(%d) on host", c.cpus, runtime.NumCPU())
	}
	for _, o := range []string{"protected-vm-with-firmware", "unprotected-vm-with-firmware"} {
		if p := v.one(o); p != "" {
			if info, err := os.Stat(p); err != nil || !info.Mode().IsRegular() {
				return fmt.Errorf("protected vm firmware path should be an existing file")
			}
		}
	}
	roots := len(v["root"]) + len(v["rwroot"])
	for _, b := range c.blocks {
		if b.root {
			roots++
		}
	}
	if roots > 1 {
		return fmt.Errorf("only one root disk can be specified")
	}
	return c.serialContradictions()
}

func (c *config) serialContradictions() error {
	seen := map[string]bool{}
	earlycon, stdin := 0, 0
	for _, s := range c.serials {
		id := fmt.Sprintf("%s hardware %d", s.hardware, s.num)
		switch {
		case seen[id]:
			return fmt.Errorf("%s already set as a serial device", id)
		case (s.kind == "file" || s.kind == "unix" || s.kind == "unix-stream") && s.path == "":
			return fmt.Errorf("serial %d: path is needed for type %s", s.num, s.kind)
		case s.earlycon && s.hardware != "serial":
			return fmt.Errorf("earlycon is only for serial hardware")
		}
		seen[id] = true
		if s.earlycon {
			earlycon++
		}
		if s.stdin {
			stdin++
		}
	}
	if earlycon > 1 {
		return fmt.Errorf("only one serial device can be the early console")
	}
	if stdin > 1 {
		return fmt.Errorf("only one serial device can take stdin")
	}
	return nil
}

// cmdline is the kernel's: crosvm's own words first, root= last.
func (c *config) cmdline(arch string) (string, error) {
	words := []string{"panic=-1"}
	console := false
	for _, s := range c.serials {
		console = console || s.console
		if s.console && s.hardware == "serial" {
			words = append(words, fmt.Sprintf("console=ttyS%d", s.num-1))
		} else if s.console {
			words = append(words, fmt.Sprintf("console=hvc%d", s.num-1))
		}
	}
	if !console && !slices.ContainsFunc(c.serials, func(s serial) bool { return s.hardware == "serial" && s.num == 1 }) {
		words = append(words, "console=ttyS0")
	}
	words = append(words, c.params...)
	for n, b := range c.blocks {
		if b.root {
			mode := "rw"
			if b.ro {
				mode = "ro"
			}
			words = append(words, fmt.Sprintf("root=/dev/vd%c %s", 'a'+n, mode))
		}
	}
	text := strings.Join(words, " ")
	if len(text) > 2047 {
		return "", fmt.Errorf("the kernel command line is too large: %d bytes", len(text))
	}
	return text, nil
}
