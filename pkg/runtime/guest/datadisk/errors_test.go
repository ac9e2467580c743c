package datadisk

import (
	"os"
	"strings"
	"testing"
)

func TestFileSystemErrors(t *testing.T) {
	sysfs := t.TempDir()
	if err := fileSystemErrors(sysfs, "/dev/vda"); err != nil {
		t.Errorf("nothing mounted: %v", err)
	}
	if err := os.Mkdir(sysfs+"/vda", 0o755); err != nil {
		t.Fatal(err)
	}
	for count, want := range map[string]string{"0": "", "3": "errors in its file system (3, first in ext4_lookup)"} {
		for name, text := range map[string]string{"errors_count": count, "first_error_func": "ext4_lookup"} {
			if err := os.WriteFile(sysfs+"/vda/"+name, []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		err := fileSystemErrors(sysfs, "/dev/vda")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s errors: got %v", count, err)
		}
	}
}
