package cli

import (
	"encoding/hex"
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/format"
)

func (s *session) imageExt4Command() *cobra.Command {
	var o format.Options
	cmd := s.imageFrom(named("ext4"), &o, &cobra.Command{
		Use:   "ext4 --from TREE|TAR -o FILE",
		Short: "Write a writable ext4 file system",
		Long: `Ext4 writes an ext4 file system with a journal and checksums that Linux mounts
and resize2fs grows, also while it is mounted. The image is a sparse file, and
blocks of zeros in files become holes. Without --size it is as large as the
content needs, with an eighth and 8 MiB of free space.`,
		Example: `  sovereign-build image ext4 --from rootfs/ -o root.ext4
  sovereign-build image ext4 --from data.tar.zst -o data.ext4 --size 8GiB --label data`,
	})
	flags := cmd.Flags()
	flags.Var((*sizeFlag)(&o.Size), "size", "`size` of the image, bytes or with a unit like 512MiB (default: what the content needs)")
	flags.StringVar(&o.Label, "label", "", "`name` of the volume, at most 16 bytes")
	flags.Var((*uuidFlag)(&o.UUID), "uuid", "`UUID` of the file system (default: made from the content's names and attributes)")
	flags.Var((*sizeFlag)(&o.EXT4.BytesPerInode), "bytes-per-inode", "`bytes` of the image for each inode (default: 16384)")
	flags.Var((*sizeFlag)(&o.EXT4.JournalSize), "journal-size", "`size` of the journal (default: by the image's size, as mke2fs)")
	flags.IntVar(&o.EXT4.ReservedPercent, "reserved-percent", 0, "`percent` of the blocks that only root can use")
	return cmd
}

func (s *session) imageErofsCommand() *cobra.Command {
	var o format.Options
	cmd := s.imageFrom(named("erofs"), &o, &cobra.Command{
		Use:   "erofs --from TREE|TAR -o FILE",
		Short: "Write a read-only EROFS file system",
		Long: `Erofs writes an EROFS image with blocks of 4096 bytes, as the root file system
of a bundle is.

With --compress files are compressed in clusters, each of which is read and
decompressed as a whole: zstd makes the smallest images, lz4 is the fastest to
read. A file that does not become smaller is stored as it is. Linux reads zstd
from 6.10 on with CONFIG_EROFS_FS_ZIP_ZSTD, and lz4 from 5.17 on with
CONFIG_EROFS_FS_ZIP.`,
		Example: `  sovereign-build image erofs --from rootfs/ -o root.erofs
  sovereign-build image erofs --from root.ext4 -o root.erofs --compress zstd`,
	})
	flags := cmd.Flags()
	flags.Var((*uuidFlag)(&o.UUID), "uuid", "`UUID` of the file system (default: made from the content)")
	flags.StringVar(&o.EROFS.Compression.Algorithm, "compress", "", "`algorithm` to compress files with, "+strings.Join(erofs.Algorithms(), " or ")+" (default: none)")
	flags.IntVar(&o.EROFS.Compression.Level, "compress-level", 0, "`level` from 1, the fastest, to 4, the smallest image (default: 2)")
	flags.Var((*clusterFlag)(&o.EROFS.Compression.ClusterSize), "cluster-size", "most `bytes` that are compressed into one cluster, up to 1MiB (default: 64KiB)")
	return cmd
}

func (s *session) imageCpioCommand() *cobra.Command {
	var compress bool
	name := func() string {
		if compress {
			return "cpio.zst"
		}
		return "cpio"
	}
	cmd := s.imageFrom(name, &format.Options{}, &cobra.Command{
		Use:   "cpio --from TREE|TAR -o FILE",
		Short: "Write a cpio archive the kernel unpacks at boot",
		Long: `Cpio writes an archive of the format newc, as initramfs take it. The format has
no place for extended attributes: content with some is refused.`,
		Example: `  sovereign-build image cpio --from early/ -o initramfs.cpio.zst --zstd`,
	})
	cmd.Flags().BoolVar(&compress, "zstd", false, "compress with zstd")
	return cmd
}

func (s *session) imageTarCommand() *cobra.Command {
	return s.imageFrom(named("tar"), &format.Options{}, &cobra.Command{
		Use:   "tar --from TREE|TAR -o FILE",
		Short: "Write a tar archive",
		Long: `Tar writes a sorted archive, ustar with PAX records where they are needed,
extended attributes in those of the prefix SCHILY.xattr.`,
		Example: `  sovereign-build image tar --from rootfs/ -o rootfs.tar`,
	})
}

func (s *session) imageOCICommand() *cobra.Command {
	var o format.Options
	o.OCI.Platform.OS = "linux"
	cmd := s.imageFrom(named("oci"), &o, &cobra.Command{
		Use:   "oci --from TREE|TAR --arch ARCH -o FILE",
		Short: "Write a container image, as an archive",
		Long: `Oci writes an archive of an OCI image with one layer, which podman and docker
load, and skopeo and crane read. oci push takes what "tar -x" makes of it.`,
		Example: `  sovereign-build image oci --from rootfs/ --arch amd64 -o app.tar --entrypoint /usr/bin/app
  podman load -i app.tar`,
	})
	flags := cmd.Flags()
	flags.StringVar(&o.OCI.Platform.Architecture, "arch", "", "`architecture` of the programs in it, as Go calls it: amd64, arm64")
	flags.StringVar(&o.OCI.Info.Title, "name", "", "`name` that a program which loads it gives it: app:1.2")
	flags.StringArrayVar(&o.OCI.Config.Entrypoint, "entrypoint", nil, "`word` of the command that a container runs; may be given more than once")
	flags.StringArrayVar(&o.OCI.Config.Env, "env", nil, "`NAME=VALUE` in its environment; may be given more than once")
	flags.StringVar(&o.OCI.Config.User, "user", "", "`user` that runs it, by name or number")
	flags.BoolVar(&o.OCI.Zstd, "zstd", false, "compress the layer with zstd, which Docker before 23 does not read")
	return cmd
}

func (s *session) imageApkCommand() *cobra.Command {
	var o format.Options
	cmd := s.imageFrom(named("apk"), &o, &cobra.Command{
		Use:   "apk --from TREE|TAR --name NAME --package-version VERSION --arch ARCH -o FILE",
		Short: "Write a package for apk",
		Long: `Apk writes a package of Alpine's format that installs the tree. It is not signed,
so apk takes it with --allow-untrusted only.`,
		Example: `  sovereign-build image apk --from rootfs/ --name app --package-version 1.2-r0 --arch x86_64 -o app-1.2-r0.apk`,
	})
	flags, m := cmd.Flags(), &o.APK.Meta
	flags.StringVar(&m.Name, "name", "", "`name` of the package")
	flags.StringVar(&m.Version, "package-version", "", "`version` of the package, with its release: 1.2-r0")
	flags.StringVar(&m.Arch, "arch", "", "`architecture` as apk calls it: x86_64, aarch64 or noarch")
	flags.StringVar(&m.Description, "summary", "", "`line` for people")
	flags.StringVar(&m.License, "license", "", "SPDX `expression`")
	flags.StringVar(&m.URL, "url", "", "`URL` of the package's home")
	flags.StringArrayVar(&m.Depends, "depends", nil, "`dependency`, apk's; may be given more than once")
	return cmd
}

// named is a format that no flag changes.
func named(format string) func() string { return func() string { return format } }

// clusterFlag is a sizeFlag for a number that fits an int.
type clusterFlag int

func (f *clusterFlag) Type() string { return "size" }

func (f *clusterFlag) String() string { return sizeText(int64(*f)) }

func (f *clusterFlag) Set(text string) error {
	var size sizeFlag
	err := size.Set(text)
	*f = clusterFlag(min(size, math.MaxInt32))
	return err
}

// sizeFlag is a number of bytes: plain, with a unit of a recipe ("512MiB"), or
// with the first letter of one ("512M"), as other makers of images take it.
type sizeFlag int64

func (f *sizeFlag) Type() string { return "size" }

func (f *sizeFlag) String() string { return sizeText(int64(*f)) }

// sizeText is a size as help shows it, nothing for none.
func sizeText(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func (f *sizeFlag) Set(text string) error {
	if digits := strings.TrimRight(text, "0123456789"); digits == "" && text != "" {
		if _, err := fmt.Sscan(text, (*int64)(f)); err != nil {
			return fmt.Errorf("size %q is too large", text)
		}
		return nil
	}
	if n := len(text) - 1; n > 0 && strings.ContainsRune("KMGT", rune(text[n])) {
		text += "iB"
	}
	var size recipe.Size
	if err := size.UnmarshalText([]byte(text)); err != nil {
		return err
	}
	*f = sizeFlag(size)
	return nil
}

// uuidFlag is 8-4-4-4-12 hex digits.
type uuidFlag [16]byte

func (f *uuidFlag) Type() string { return "UUID" }

func (f *uuidFlag) String() string {
	if *f == (uuidFlag{}) {
		return ""
	}
	return uuidText(*f)
}

func (f *uuidFlag) Set(text string) error {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != len(f) || uuidText([16]byte(b)) != strings.ToLower(text) {
		return fault.Errorf(fault.Usage, "%q is not a UUID of 8-4-4-4-12 hex digits", text)
	}
	*f = uuidFlag(b)
	return nil
}

func uuidText(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
