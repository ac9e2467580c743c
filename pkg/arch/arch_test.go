package arch

import (
	"debug/elf"
	"regexp"
	"slices"
	"testing"
)

// A row has everything, and nothing that another one has.
func TestTable(t *testing.T) {
	guid := regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	seen := map[string]string{}
	for _, a := range All() {
		for what, value := range map[string]string{
			"go": a.Go, "debian": a.Debian, "apk": a.Apk, "target": a.Target, "kernel": a.Kernel, "qemu": a.QEMU, "package": a.QEMUPackage,
			"efi": a.EFI, "root": a.RootType, "verity": a.VerityType,
		} {
			if value == "" || seen[what+value] != "" {
				t.Errorf("%s: %s %q is %s's too", a.Go, what, value, seen[what+value])
			}
			seen[what+value] = a.Go
		}
		if a.Image == "" || a.Board == "" || a.Console == "" || len(a.Config) == 0 || a.ELF == elf.EM_NONE || a.PE == 0 {
			t.Errorf("%s lacks something: %+v", a.Go, a)
		}
		if !guid.MatchString(a.RootType) || !guid.MatchString(a.VerityType) {
			t.Errorf("%s: %s and %s are not both GUIDs", a.Go, a.RootType, a.VerityType)
		}
		for by, got := range map[string]func() (Arch, bool){
			"go":  func() (Arch, bool) { return Of(a.Go) },
			"apk": func() (Arch, bool) { return OfApk(a.Apk) },
			"pe":  func() (Arch, bool) { return OfPE(a.PE) },
		} {
			if b, ok := got(); !ok || b.Go != a.Go {
				t.Errorf("%s by its name of %s: %s", a.Go, by, b.Go)
			}
		}
		for _, name := range append(a.Uname, a.Go) {
			if b, ok := OfUname(name); !ok || b.Go != a.Go {
				t.Errorf("%s is %q", name, b.Go)
			}
		}
	}
	if _, ok := Of("vax"); ok {
		t.Error("vax is known")
	}
	if !slices.Equal(Built(), []string{"amd64", "arm64"}) || Choice() != "amd64, arm64 or riscv64" {
		t.Errorf("%q, %q", Built(), Choice())
	}
}
