package main

import (
	"errors"
	"fmt"
	"strings"
)

// badArguments is what crosvm's parser (argh) refuses: exit code 35, always.
type badArguments struct{ error }

func badf(format string, args ...any) error { return &badArguments{fmt.Errorf(format, args...)} }

// kind of an option: how often it may be given, and whether it has a value.
type kind int

const (
	flag   kind = iota // no value
	single             // one value, once
	many               // one value, any number of times
)

// option is one of "run".
type option struct {
	name  string
	short string
	kind  kind
	help  string
}

// values are the options that were given, each with its values; a flag has "".
type values map[string][]string

func (v values) has(name string) bool { return len(v[name]) > 0 }

// one is the value of a single option, "" where it was not given.
func (v values) one(name string) string {
	if len(v[name]) == 0 {
		return ""
	}
	return v[name][0]
}

// expand does what crosvm does before it parses (src/main.rs, prepare_argh_args):
// --k=v becomes --k v, -h becomes --help.
func expand(args []string) []string {
	var out []string
	for _, a := range args {
		switch {
		case a == "-h":
			out = append(out, "--help")
		case strings.HasPrefix(a, "-") && len(a) > 1:
			if k, v, ok := strings.Cut(a, "="); ok {
				out = append(out, k, v)
				continue
			}
			out = append(out, a)
		default:
			out = append(out, a)
		}
	}
	return out
}

var errHelp = errors.New("help")

// parse reads the options of a command; at is "" for those before the command,
// where it ends at the first word that is none. rest are the other words.
func parse(args []string, options []option, untilWord bool) (v values, rest []string, err error) {
	v = values{}
	byName := map[string]option{}
	for _, o := range options {
		byName["--"+o.name] = o
		if o.short != "" {
			byName["-"+o.short] = o
		}
	}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--help" {
			return v, nil, errHelp
		}
		if !strings.HasPrefix(a, "-") || a == "-" {
			if untilWord {
				return v, args[i:], nil
			}
			rest = append(rest, a)
			continue
		}
		o, ok := byName[a]
		if !ok {
			return v, nil, badf("Unrecognized argument: %s", a)
		}
		if o.kind == flag {
			v[o.name] = []string{""}
			continue
		}
		if i++; i >= len(args) {
			return v, nil, badf("No value provided for option '%s'.", a)
		}
		if o.kind == single && len(v[o.name]) > 0 {
			return v, nil, badf("Error parsing option '%s' with value '%s': duplicate values provided", a, args[i])
		}
		v[o.name] = append(v[o.name], args[i])
	}
	return v, rest, nil
}

// runOptions are the options of "run" of a profile: those that matter to a bundle,
// those that contradict them, and the deprecated ones (src/crosvm/cmdline.rs).
//
//	a16        Android 16 (crosvm of March 2025)
//	newer      later trees
//	no-net     one that was built without the network, as a beta of Android 17
//	early-sve  an early Android 16, with another spelling in --cpus
func runOptions(profile string) []option {
	all := []option{
		{"balloon-page-reporting", "", flag, "enable page reporting in balloon."},
		{"bios", "", single, "path to BIOS/firmware ROM"},
		{"block", "b", many, "parameters for setting up a block device."},
		{"boost-uclamp", "", flag, "set a minimum utilization for vCPU threads"},
		{"cid", "", single, "(DEPRECATED): Use --vsock."},
		{"cpu-affinity", "", single, "comma-separated list of CPUs or CPU ranges to run VCPUs on"},
		{"cpus", "c", single, "cpu parameters."},
		{"device-tree-overlay", "", many, "path to device tree overlay binary"},
		{"disable-sandbox", "", flag, "run all devices in one, non-sandboxed process"},
		{"disk", "d", many, "(DEPRECATED): Use --block."},
		{"gdb", "", single, "gdb stub port"},
		{"host-cpu-topology", "", flag, "mirror the topology of physical CPUs to the guest"},
		{"host-ip", "", single, "(DEPRECATED): Use --net."},
		{"hugepages", "", flag, "advise the kernel to use Huge Pages for guest memory mappings"},
		{"hypervisor", "", single, "hypervisor backend"},
		{"init-mem", "", single, "amount of guest memory outside the balloon at boot in MiB. (default: --mem)"},
		{"initrd", "i", single, "initial ramdisk to load"},
		{"kvm-device", "", single, "(DEPRECATED): Use --hypervisor."},
		{"mem", "m", single, "memory parameters."},
		{"name", "", single, "the name of the vm"},
		{"net", "", many, "comma separated key=value pairs for setting up a network device"},
		{"no-balloon", "", flag, "don't use virtio-balloon device in the guest"},
		{"no-pmu", "", flag, "don't create PMU interrupts"},
		{"no-rng", "", flag, "don't create RNG device in the guest"},
		{"no-smt", "", flag, "don't use SMT in the guest"},
		{"no-usb", "", flag, "don't use usb devices in the guest"},
		{"params", "p", many, "extra kernel or plugin command line arguments. Can be given more than once"},
		{"pci", "", single, "PCI parameters."},
		{"protected-vm", "", flag, "prevent host access to guest memory"},
		{"protected-vm-with-firmware", "", single, "(EXPERIMENTAL/FOR DEBUGGING) Use custom VM firmware to run in protected mode"},
		{"protected-vm-without-firmware", "", flag, "(EXPERIMENTAL) prevent host access to guest memory, but don't use protected VM firmware"},
		{"pstore", "", single, "path to pstore buffer backend file followed by size"},
		{"root", "r", single, "(DEPRECATED): Use --block."},
		{"rwdisk", "", many, "(DEPRECATED): Use --block."},
		{"rwroot", "", single, "(DEPRECATED): Use --block."},
		{"serial", "", many, "comma separated key=value pairs for setting up serial devices."},
		{"socket", "s", single, "path to put the control socket. If PATH is a directory, a name will be generated"},
		{"suspended", "", flag, "start a VM with vCPUs and devices suspended"},
		{"swiotlb", "", single, "(EXPERIMENTAL) Size of virtio swiotlb buffer in MiB"},
		{"syslog-tag", "", single, "(DEPRECATED): Use --syslog-tag before \"run\"."},
		{"tap-fd", "", many, "(DEPRECATED): Use --net."},
		{"tap-name", "", many, "(DEPRECATED): Use --net."},
		{"task-profiles", "", single, "comma-separated names of the task profiles to apply to all threads"},
		{"unmap-guest-memory-on-fork", "", flag, "unmap guest memory in child processes"},
		{"unprotected-vm-with-firmware", "", single, "(EXPERIMENTAL/FOR DEBUGGING) Use VM firmware, but allow host access to guest memory"},
		{"vcpu-cgroup-path", "", single, "move all vCPU threads to this CGroup"},
		{"vsock", "", single, "add a vsock device."},
	}
	var list []option
	for _, o := range all {
		if profile == "no-net" {
			switch o.name {
			case "net", "tap-fd", "tap-name", "host-ip":
				continue
			}
		}
		list = append(list, o)
	}
	if profile == "newer" {
		list = append(list, option{"force-disable-readonly-mem", "", flag, "force off use of readonly memslots"},
			option{"irqchip", "", single, "type of interrupt controller emulation."},
			option{"lock-guest-memory", "", flag, "lock the entire guest memory"},
			option{"smccc-trng", "", flag, "expose and emulate support for SMCCC TRNG"},
			option{"suspended-vcpus", "", flag, "start a VM with vCPUs suspended"})
	}
	return list
}

// globalOptions come before the command.
func globalOptions() []option {
	return []option{
		{"extended-status", "", flag, "use extended exit status"},
		{"log-level", "", single, "specify log level, eg \"off\", \"error\", \"debug,disk=off\", etc"},
		{"syslog-tag", "", single, "when logging to syslog, use the provided tag"},
		{"no-syslog", "", flag, "disable output to syslog"},
	}
}

// help is what "run --help" prints, as argh does.
func help(options []option) string {
	var b strings.Builder
	b.WriteString("Usage: crosvm run <options> KERNEL\n\nStart a new crosvm instance.\n\nPositional Arguments:\n  KERNEL            bzImage of kernel to run\n\nOptions:\n")
	for _, o := range options {
		name := "--" + o.name
		if o.short != "" {
			name = "-" + o.short + ", " + name
		}
		if len(name) > 16 {
			fmt.Fprintf(&b, "  %s\n%20s%s\n", name, "", o.help)
		} else {
			fmt.Fprintf(&b, "  %-18s%s\n", name, o.help)
		}
	}
	b.WriteString("  --help, help      display usage information\n")
	return b.String()
}
