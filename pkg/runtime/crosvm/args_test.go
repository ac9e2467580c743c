package crosvm

import (
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testMachine(t *testing.T) vm.Machine {
	t.Helper()
	return vm.Machine{
		Name: "sql", Arch: "arm64", MemoryMiB: 512, CPUs: 4, Cmdline: "roothash=00 root.serial=root data.serial=data",
		Disks: []vm.Disk{{Serial: "root", ReadOnly: true}, {Serial: "data"}},
		Card: &vm.Card{
			MAC: net.HardwareAddr{2, 0, 10, 0, 2, 2}, MTU: 65520,
			Address: netip.MustParsePrefix("10.0.2.2/24"), Gateway: netip.MustParseAddr("10.0.2.1"), DNS: netip.MustParseAddr("10.0.2.1"),
			Address6: netip.MustParsePrefix("fd53::2/64"), Gateway6: netip.MustParseAddr("fd53::1"),
		},
		Dir: t.TempDir(),
	}
}

// optionsOf reads the help that a build prints.
func optionsOf(t *testing.T, name string) map[string]bool {
	t.Helper()
	help, err := os.ReadFile(filepath.Join("testdata", name+".help"))
	if err != nil {
		t.Fatal(err)
	}
	options := map[string]bool{}
	for _, o := range helpOptions(help) {
		options[o] = true
	}
	return options
}

// TestArguments holds the command lines for builds of crosvm to golden files.
func TestArguments(t *testing.T) {
	for name, c := range map[string]struct {
		help string
		edit func(*vm.Machine, *plan)
	}{
		"a15":           {"a15", func(*vm.Machine, *plan) {}},
		"a16":           {"a16", func(*vm.Machine, *plan) {}},
		"newer":         {"newer", func(*vm.Machine, *plan) {}},
		"no-net":        {"no-net", func(*vm.Machine, *plan) {}},
		"a16-protected": {"a16", func(_ *vm.Machine, p *plan) { p.Protected, p.reporting = true, true }},
		"a16-gunyah":    {"a16", func(_ *vm.Machine, p *plan) { p.hypervisor, p.Protected = "gunyah", true }},
		"a16-thin": {"a16", func(m *vm.Machine, p *plan) {
			m.Disks[1].Thin, m.Disks[1].Serial, m.Card, p.CPUs = true, "a,[b]", nil, 1
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := testMachine(t)
			p := plan{PlanInfo: vm.PlanInfo{Program: AndroidProgram, CPUs: 4}, options: optionsOf(t, c.help)}
			c.edit(&m, &p)
			args, err := arguments(m, p, 70000)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(args, "\n") + "\n"
			golden := filepath.Join("testdata", name+".args")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			for _, a := range args {
				if strings.HasPrefix(a, "--") && !p.options[a[2:]] && !strings.Contains("--extended-status --log-level --no-syslog", a) {
					t.Errorf("%s is none of its options", a)
				}
			}
		})
	}
}

func TestArgumentsRefused(t *testing.T) {
	options := optionsOf(t, "a16")
	m := testMachine(t)
	m.Cmdline = strings.Repeat("x", 1900)
	if _, err := arguments(m, plan{options: options}, 3); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "2047") {
		t.Errorf("a command line that is too long: %v", err)
	}
	m = testMachine(t)
	m.Disks[0].Serial = `a"b'c`
	if _, err := arguments(m, plan{options: options}, 3); err == nil || !strings.Contains(err.Error(), "cannot hold") {
		t.Errorf("a serial that cannot be written: %v", err)
	}
	delete(options, "disable-sandbox")
	if _, err := arguments(testMachine(t), plan{options: options}, 3); fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "--disable-sandbox") {
		t.Errorf("a build without an option that is needed: %v", err)
	}
}

func TestQuote(t *testing.T) {
	for value, want := range map[string]string{
		"/proc/self/fd/3": "/proc/self/fd/3", "a,b": `"a,b"`, "a[1]": `"a[1]"`, `say "hi"`: `'say "hi"'`, "it's": `"it's"`, "a=b": `"a=b"`,
	} {
		if got, err := quote(value); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", value, got, err, want)
		}
	}
	for _, value := range []string{`"'`, "a\nb", "a\x00b"} {
		if got, err := quote(value); err == nil {
			t.Errorf("%q became %s", value, got)
		}
	}
}
