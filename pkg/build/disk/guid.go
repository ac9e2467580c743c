package disk

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A GUID is written as text the way sgdisk shows it: its bytes are in the
// order of that text, as in RFC 9562. The disk holds the first three fields
// with their bytes reversed.
type GUID [16]byte

// String is the GUID in upper case, 8-4-4-4-12.
func (g GUID) String() string {
	s := strings.ToUpper(hex.EncodeToString(g[:]))
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// ParseGUID reads 8-4-4-4-12 hex digits.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(g) || len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("%q is not a GUID", s)
	}
	return GUID(b), nil
}

// Types of the Discoverable Partitions Specification
// (uapi-group.org/specifications/specs/discoverable_partitions_specification):
// the EFI system partition, and data that nothing is known of.
const (
	ESP       = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	LinuxData = "0fc63daf-8483-4772-8e79-3d69d8477de4"
)

// RootTypes returns the types of the root and root-verity partitions for an
// architecture by Go's name.
func RootTypes(goarch string) (root, verity GUID, err error) {
	a, ok := arch.Of(goarch)
	if !ok {
		return root, verity, fault.Errorf(fault.Usage, "no partition types for architecture %q", goarch).Hintf("use %s", arch.Choice())
	}
	if root, err = ParseGUID(a.RootType); err == nil {
		verity, err = ParseGUID(a.VerityType)
	}
	return root, verity, fault.Wrap(fault.Internal, err)
}
