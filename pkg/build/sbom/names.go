package sbom

import (
	"fmt"
	"net/url"
	"strings"
)

// cpeNames are vendors and products in NVD's dictionary of CPE, by the names of
// sources here. Where it has none, the name stands for both, which matches
// nothing by mistake.
var cpeNames = map[string][2]string{
	"busybox":      {"busybox", "busybox"},
	"e2fsprogs":    {"e2fsprogs_project", "e2fsprogs"},
	"go":           {"golang", "go"},
	"icu":          {"unicode", "international_components_for_unicode"},
	"linux":        {"linux", "linux_kernel"},
	"llvm":         {"llvm", "llvm"},
	"musl":         {"musl-libc", "musl"},
	"openssl":      {"openssl", "openssl"},
	"postgresql17": {"postgresql", "postgresql"},
	"tailscale":    {"tailscale", "tailscale"},
	"zlib":         {"zlib", "zlib"},
}

// cpe is a name of CPE 2.3; part is "a" for programs and "o" for the kernel.
func cpe(part, name, version string) string {
	v, ok := cpeNames[name]
	if !ok {
		v = [2]string{name, name}
	}
	return fmt.Sprintf("cpe:2.3:%s:%s:%s:%s:*:*:*:*:*:*:*", part, cpeEscape(v[0]), cpeEscape(v[1]), cpeEscape(version))
}

// cpeEscape puts a backslash before what CPE has a meaning for.
func cpeEscape(s string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(s) {
		if c < 'a' && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' || c > 'z' {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	if b.Len() == 0 {
		return "*"
	}
	return b.String()
}

// purlPart is a name or version in a package URL.
func purlPart(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(url.PathEscape(s), "+", "%2B"), "@", "%40")
}

// purlPath is a name with slashes in one.
func purlPath(s string) string {
	parts := strings.Split(s, "/")
	for i, p := range parts {
		parts[i] = purlPart(p)
	}
	return strings.Join(parts, "/")
}

// purlValue is the value of a qualifier.
func purlValue(s string) string { return url.QueryEscape(s) }
