// Package magic says by its first bytes what a file is.
//
// Some bytes come in; the name of a format, what kind of thing it is and what
// a person can do with one that this program does not read go out. The package
// reads nothing itself and knows no more of a format than its mark.
package magic

import (
	"bytes"
	"strconv"
	"strings"
)

// HeadSize is how many bytes show every format, less where the file is
// shorter. With fewer than that some are not recognised; 512 show every
// compression.
const HeadSize = 66 << 10

// Kind is what can be done with a format.
type Kind int

// Kinds of formats.
const (
	Unknown    Kind = iota // no mark is known
	Tar                    // a tar archive
	Gzip                   // compressed, and read
	Zstd                   // compressed, and read
	Ext                    // a file system, and read
	EROFS                  // a file system, and read
	Compressed             // compressed, and not read
	Other                  // anything else that is not read
)

// Format is what a file is.
type Format struct {
	// Name is for people: "an xz file", "a GPT disk".
	Name string
	Kind Kind
	// Unpack is, of a Compressed one, the command that writes its contents to
	// standard output, without the file's name.
	Unpack string
	// Advice says of an Other one what to do, as a hint does.
	Advice string
}

// Advice for formats that are not read.
const (
	unpackIt = "unpack it into a directory and give that"
	mountIt  = "mount it, or unpack it into a directory, and give that"
	uncpioIt = "unpack it into a directory, with cpio -idm, and give that"
	makeRaw  = "make a raw disk of it, with qemu-img convert -O raw, and take the partition with the file system out of that"
)

// mark is bytes at a place. Of several that fit the first counts.
type mark struct {
	at    int
	bytes string
	Format
}

var marks = []mark{
	{0, "\x1f\x8b", Format{"a gzip file", Gzip, "", ""}},
	{0, "\x28\xb5\x2f\xfd", Format{"a zstd file", Zstd, "", ""}},
	{0, "\xfd7zXZ\x00", Format{"an xz file", Compressed, "xz -dc", ""}},
	{0, "LZIP", Format{"an lzip file", Compressed, "lzip -dc", ""}},
	{0, "\x04\x22\x4d\x18", Format{"an lz4 file", Compressed, "lz4 -dc", ""}},
	{0, "\x02\x21\x4c\x18", Format{"an lz4 file", Compressed, "lz4 -dc", ""}},
	{0, "\x89LZO\x00\x0d\x0a\x1a\x0a", Format{"an lzop file", Compressed, "lzop -dc", ""}},
	{0, "\x1f\x9d", Format{"a file of compress", Compressed, "gzip -dc", ""}},
	{0, "\x1f\xa0", Format{"a file of compress", Compressed, "gzip -dc", ""}},
	{0, "\x5d\x00\x00", Format{"an lzma file", Compressed, "xz --format=lzma -dc", ""}},
	{0, "\xff\x06\x00\x00sNaPpY", Format{"a snappy file", Compressed, "snzip -dc", ""}},
	{0, "\xce\xb2\xcf\x81", Format{"a brotli file", Compressed, "brotli -dc", ""}},

	{0, "PK\x03\x04", Format{"a zip file", Other, "", unpackIt}},
	{0, "PK\x05\x06", Format{"an empty zip file", Other, "", unpackIt}},
	{0, "7z\xbc\xaf\x27\x1c", Format{"a 7z file", Other, "", unpackIt}},
	{0, "Rar!\x1a\x07", Format{"a rar file", Other, "", unpackIt}},
	{0, "070701", Format{"a cpio archive", Other, "", uncpioIt}},
	{0, "070702", Format{"a cpio archive", Other, "", uncpioIt}},
	{0, "070707", Format{"a cpio archive", Other, "", uncpioIt}},
	{0, "\xc7\x71", Format{"a cpio archive", Other, "", uncpioIt}},
	{0, "\x71\xc7", Format{"a cpio archive", Other, "", uncpioIt}},
	{0, "!<arch>\n", Format{"an archive of ar, as Debian's packages are", Other, "", "give what is in it: for a package, dpkg-deb --fsys-tarfile FILE"}},
	{0, "\xed\xab\xee\xdb", Format{"an RPM package", Other, "", "unpack it into a directory, with rpm2cpio and cpio, and give that"}},
	{0, "ADB", Format{"a package of apk-tools 3", Other, "", unpackIt}},
	{0, "\x7fELF", Format{"an ELF program", Other, "", "name a directory, a tar archive or an image"}},
	{0, "MZ", Format{"a program or kernel for EFI or DOS", Other, "", "name a directory, a tar archive or an image"}},

	{0, "hsqs", Format{"a squashfs image", Other, "", "unpack it into a directory, with unsquashfs, and give that"}},
	{0, "sqsh", Format{"a squashfs image", Other, "", "unpack it into a directory, with unsquashfs, and give that"}},
	{0, "\x45\x3d\xcd\x28", Format{"a cramfs image", Other, "", mountIt}},
	{0, "-rom1fs-", Format{"a romfs image", Other, "", mountIt}},
	{0, "XFSB", Format{"an XFS image", Other, "", mountIt}},
	{0, "QFI\xfb", Format{"a qcow2 disk", Other, "", makeRaw}},
	{0, "KDMV", Format{"a VMDK disk", Other, "", makeRaw}},
	{0, "vhdxfile", Format{"a VHDX disk", Other, "", makeRaw}},
	{0, "conectix", Format{"a VHD disk", Other, "", makeRaw}},
	{64, "\x7f\x10\xda\xbe", Format{"a VDI disk", Other, "", makeRaw}},
	{0, "\x3a\xff\x26\xed", Format{"an Android sparse image", Other, "", "make a raw image of it with simg2img"}},
	{0, "ANDROID!", Format{"an Android boot image", Other, "", unpackIt}},
	{0, "LUKS\xba\xbe", Format{"an encrypted (LUKS) image", Other, "", "open it with cryptsetup, mount it and give the directory"}},

	{1024, "\xe2\xe1\xf5\xe0", Format{"an EROFS image", EROFS, "", ""}},
	{1024 + 0x38, "\x53\xef", Format{"an ext2, ext3 or ext4 image", Ext, "", ""}},

	{512, "EFI PART", Format{"a GPT disk", Other, "", "take the partition with the file system out of it, with dd and the numbers of sgdisk -i, and give that"}},
	{4096, "EFI PART", Format{"a GPT disk with sectors of 4096 bytes", Other, "", "take the partition with the file system out of it and give that"}},
	{1024, "\x10\x20\xf5\xf2", Format{"an F2FS image", Other, "", mountIt}},
	{1024, "H+\x00\x04", Format{"an HFS+ image", Other, "", mountIt}},
	{1024, "HX\x00\x05", Format{"an HFS+ image", Other, "", mountIt}},
	{3, "NTFS    ", Format{"an NTFS image", Other, "", mountIt}},
	{3, "EXFAT   ", Format{"an exFAT image", Other, "", mountIt}},
	{54, "FAT1", Format{"a FAT image", Other, "", "unpack it into a directory, with mcopy -s, and give that"}},
	{82, "FAT32", Format{"a FAT image", Other, "", "unpack it into a directory, with mcopy -s, and give that"}},
	{4086, "SWAPSPACE2", Format{"swap space", Other, "", "name a directory, a tar archive or an image"}},
	{512 + 24, "LVM2 001", Format{"a volume of LVM", Other, "", mountIt}},
	{32769, "CD001", Format{"an ISO 9660 image", Other, "", "unpack it into a directory, with bsdtar -xf or 7z x, and give that"}},
	{64<<10 + 64, "_BHRfS_M", Format{"a btrfs image", Other, "", mountIt}},
	{510, "\x55\xaa", Format{"a disk with a boot sector", Other, "", "take the partition with the file system out of it and give that"}},
}

// Of returns what a file with these first bytes is. A tar archive is one
// whatever the name of its first file looks like.
func Of(head []byte) Format {
	if isTar(head) {
		return Format{Name: "a tar archive", Kind: Tar}
	}
	// A zstd file may begin with a frame to skip, as pzstd writes it
	// (RFC 8878, 3.1.2).
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.HasPrefix(head[1:], []byte{0x2a, 0x4d, 0x18}) {
		return Format{Name: "a zstd file", Kind: Zstd}
	}
	// bzip2's mark is letters; the fourth is a size from 1 to 9, and the first
	// block's own mark follows, or the end's.
	if len(head) >= 10 && bytes.HasPrefix(head, []byte("BZh")) && head[3] >= '1' && head[3] <= '9' &&
		(string(head[4:10]) == "1AY&SY" || string(head[4:10]) == "\x17\x72\x45\x38\x50\x90") {
		return Format{Name: "a bzip2 file", Kind: Compressed, Unpack: "bzip2 -dc"}
	}
	for _, m := range marks {
		if len(head) >= m.at+len(m.bytes) && string(head[m.at:m.at+len(m.bytes)]) == m.bytes {
			return m.Format
		}
	}
	return Format{}
}

// isTar says whether the first block is a header of tar, by its checksum: the
// sum of its bytes with the checksum's own field as spaces, signed or not.
func isTar(head []byte) bool {
	const size, from, to = 512, 148, 156
	if len(head) < size || head[0] == 0 {
		return false
	}
	field, _, _ := strings.Cut(strings.TrimLeft(string(head[from:to]), " \x00"), "\x00")
	want, err := strconv.ParseInt(strings.TrimRight(field, " "), 8, 64)
	if err != nil {
		return false
	}
	var signed, unsigned int64
	for i, c := range head[:size] {
		if i >= from && i < to {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return want == unsigned || want == signed
}
