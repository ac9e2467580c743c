package disk

import (
	"encoding/hex"
	"fmt"
	"strings"

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
// the EFI system partition, a root file system and its dm-verity hashes, and
// data that nothing is known of.
const (
	ESP             = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	LinuxData       = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	RootAMD64       = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	RootAMD64Verity = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
	RootARM64       = "b921b045-1df0-41c3-af44-4c6f280d3fae"
	RootARM64Verity = "df3300ce-d69f-4c92-978c-9bfb0f38d820"
)

// RootTypes returns the types of the root and root-verity partitions for an
// architecture by Go's name, amd64 or arm64.
func RootTypes(goarch string) (root, verity GUID, err error) {
	types := map[string][2]string{"amd64": {RootAMD64, RootAMD64Verity}, "arm64": {RootARM64, RootARM64Verity}}[goarch]
	if root, err = ParseGUID(types[0]); err == nil {
		verity, err = ParseGUID(types[1])
	}
	if err != nil {
		return root, verity, fault.Errorf(fault.Usage, "no partition types for architecture %q", goarch).Hintf("use amd64 or arm64")
	}
	return root, verity, nil
}
