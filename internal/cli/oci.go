package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/artifact"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
	"github.com/sovereign-build/sovereign/pkg/rootfs/oci"
)

// Kinds of what is pushed and pulled.
const (
	kindBundle = "bundle"
	kindImage  = "image"
	kindIndex  = "index"
)

// ociResult is what push and pull print.
type ociResult struct {
	Kind      string `json:"kind"`      // "bundle", "image" or "index"
	Reference string `json:"reference"` // HOST/NAME@sha256:…
	Digest    string `json:"digest"`
	Directory string `json:"directory"`
	// Fetched are the bytes of a bundle's files that came from the registry;
	// the rest was there already.
	Fetched *int64 `json:"fetched,omitempty"`
}

func (s *session) ociCommand() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use:   "oci",
		Short: "Push and pull bundles and images",
		Long: `Oci keeps bundles in any OCI registry, and copies images between registries and
OCI layout directories. Credentials are those of docker login, podman login and
their helpers. Plain http is used for registries on this machine only.`,
		Example: `  sovereign-build oci push dist/sql-arm64 registry.example/team/sql:arm64
  sovereign-build oci pull registry.example/team/sql:arm64 -o dist/sql-arm64`,
	})
	cmd.AddCommand(s.ociPushCommand(), s.ociPullCommand())
	return exits(cmd)
}

func (s *session) ociPushCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "push BUNDLE|LAYOUT REF",
		Short: "Push a bundle or an OCI layout to a registry",
		Long: `Push verifies a bundle and writes it to a registry as one artifact, each of its
files a blob under its own name, or writes what an OCI layout directory holds.
What the registry has already is not sent again. The reference by digest that it
prints names exactly this content; give that to oci pull.`,
		Example: `  sovereign-build oci push dist/sql-arm64 registry.example/team/sql:arm64
  sovereign-build oci push layout 127.0.0.1:5000/app:1.2 --json`,
		Args: operands("BUNDLE|LAYOUT", "REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := &registry.Client{Progress: s.meter("pushed")}
			kind, ref, err := push(cmd.Context(), client, args[0], args[1])
			if err != nil {
				return err
			}
			result := ociResult{Kind: kind, Reference: ref.String(), Digest: ref.DigestStr(), Directory: args[0]}
			return s.printer().result(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "pushed %s %s\n", result.Kind, result.Reference)
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Source, fault.Verification)
}

// push pushes what is in dir and says what that is.
func push(ctx context.Context, client *registry.Client, dir, to string) (string, name.Digest, error) {
	if _, err := os.Stat(filepath.Join(dir, bundle.ManifestFile)); err == nil {
		ref, err := artifact.Push(ctx, client, dir, to)
		return kindBundle, ref, err
	}
	if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return "", name.Digest{}, fault.Errorf(fault.Usage, "%s is not a directory", dir).Hintf("name a bundle or an OCI layout")
	}
	ref, err := registry.Parse(to)
	if err != nil {
		return "", name.Digest{}, err
	}
	item, err := oci.Layout(dir)
	if err != nil {
		return "", name.Digest{}, err
	}
	if err := oci.Verify(ctx, item); err != nil {
		return "", name.Digest{}, fmt.Errorf("%s: %w", dir, err)
	}
	pushed, err := client.Push(ctx, ref, item)
	return kindOf(item), pushed, err
}

func kindOf(item oci.Item) string {
	if _, ok := item.(v1.ImageIndex); ok {
		return kindIndex
	}
	return kindImage
}

func (s *session) ociPullCommand() *cobra.Command {
	var output, platform, keyFile string
	var older bool
	cmd := &cobra.Command{
		Use:   "pull REF",
		Short: "Pull a bundle or an image from a registry",
		Long: `Pull brings what a reference names into a directory: a bundle as a bundle,
verified file by file, an image as an OCI layout. The directory takes its place
in one step; a pull that fails or is interrupted leaves what was there. Of an index
of bundles it is the one for --platform, or else for this machine. A bundle whose
manifest names a key has to be signed by it, and what takes the place of a signed
bundle by that one's. A bundle's files that have not changed are taken from the bundle it replaces.`,
		Example: `  sovereign-build oci pull registry.example/team/sql:arm64 -o dist/sql-arm64
  sovereign-build oci pull registry.example/app@sha256:… -o layout --platform linux/arm64`,
		Args: operands("REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return fault.Errorf(fault.Usage, "--output is missing: where to put it").Hintf("run %s -o DIR", cmd.UseLine())
			}
			var options []artifact.PullOption
			if keyFile != "" {
				key, err := readKey(keyFile)
				if err != nil {
					return err
				}
				options = append(options, artifact.WithKey(key))
			}
			if older {
				options = append(options, artifact.AllowRollback())
			}
			result, err := s.pull(cmd.Context(), strings.TrimPrefix(args[0], ociPrefix), output, platform, options...)
			if err != nil {
				return err
			}
			return s.printer().result(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "pulled %s %s to %s\n", result.Kind, result.Reference, result.Directory)
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`directory` that gets the bundle or layout")
	cmd.Flags().StringVar(&platform, "platform", "", "`OS/ARCH[/VARIANT]` to take of an image for several (default: all; of bundles, that of this machine)")
	cmd.Flags().StringVar(&keyFile, "key", "", "`FILE` with the public key that has to have signed a bundle")
	rollbackFlag(cmd, &older)
	return exits(cmd, fault.Environment, fault.Source, fault.Verification)
}

func (s *session) pull(ctx context.Context, from, output, platform string, options ...artifact.PullOption) (*ociResult, error) {
	var want v1.Platform
	if platform != "" {
		var err error
		if want, err = oci.ParsePlatform(platform); err != nil {
			return nil, err
		}
	}
	ref, err := registry.Parse(from)
	if err != nil {
		return nil, err
	}
	client := &registry.Client{}
	d, err := client.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	// From here on by digest: a tag that moves meanwhile must not make a
	// bundle of an image, or write one's name on another.
	pinned := ref.Context().Digest(d.Digest.String()).String()
	arch := want.Architecture
	if arch == "" {
		arch = runtime.GOARCH
	}
	one, ofSeveral, err := artifact.Select(d.Manifest, arch)
	if err != nil {
		return nil, err
	}
	if ofSeveral {
		pinned, platform = ref.Context().Digest(one.Digest.String()).String(), ""
	}
	if ofSeveral || artifact.IsBundle(d.Manifest) {
		if platform != "" {
			return nil, fault.Errorf(fault.Usage, "%s is a bundle, which is for one platform", from).Hintf("leave out --platform")
		}
		got, err := artifact.Pull(ctx, client, pinned, output, s.meter("pulled"), options...)
		if err != nil {
			return nil, err
		}
		return &ociResult{Kind: kindBundle, Reference: got.Reference.String(), Digest: got.Reference.DigestStr(), Directory: output, Fetched: &got.Fetched}, nil
	}
	item, err := oci.Remote(ctx, client, pinned, want)
	if err != nil {
		return nil, err
	}
	tag := ""
	if t, ok := ref.(name.Tag); ok {
		tag = t.TagStr()
	}
	if err := oci.WriteLayout(ctx, output, item, tag); err != nil {
		return nil, err
	}
	digest, err := item.Digest()
	if err != nil {
		return nil, fault.Wrap(fault.Source, err)
	}
	return &ociResult{Kind: kindOf(item), Reference: ref.Context().Digest(digest.String()).String(), Digest: digest.String(), Directory: output}, nil
}
