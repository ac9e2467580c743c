package crosvm

import (
	"context"
	"os/exec"
	"strings"
	"time"
)

// getprop asks Android for a system property. Elsewhere, and where it cannot be
// asked, nothing is set.
func getprop(ctx context.Context, name string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/system/bin/getprop", name).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
