package build

import (
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
)

// A root that the recipe's kernel cannot read is found before it is booted.
func TestKernelReadsRoot(t *testing.T) {
	for _, test := range []struct{ compression, config, missing string }{
		{"", "", ""},
		{"lz4", "CONFIG_EROFS_FS_ZIP=y", ""},
		{"lz4", "# CONFIG_EROFS_FS_ZIP is not set", "CONFIG_EROFS_FS_ZIP=y"},
		{"zstd", "CONFIG_EROFS_FS_ZIP=y\nCONFIG_EROFS_FS_ZIP_ZSTD=y", ""},
		{"zstd", "CONFIG_EROFS_FS_ZIP=y", "CONFIG_EROFS_FS_ZIP_ZSTD=y"},
	} {
		config, err := kernel.ParseConfig("config", strings.NewReader(test.config+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		b := &Builder{recipe: &recipe.Recipe{Path: "r/recipe.yaml", Root: recipe.Root{Compression: test.compression}}}
		err = b.readsRoot(config)
		if (err != nil) != (test.missing != "") {
			t.Errorf("%+v: %v", test, err)
		}
		if err != nil && (fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), test.missing)) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
