package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"
)

func TestClassOf(t *testing.T) {
	ended, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	_, timeout := (&net.Dialer{}).DialContext(ended, "tcp", "127.0.0.1:1")
	if !errors.Is(timeout, context.DeadlineExceeded) {
		t.Fatalf("package net says %v", timeout)
	}
	for name, tt := range map[string]struct {
		err  error
		want Class
	}{
		"plain":               {errors.New("x"), Internal},
		"classed":             {fmt.Errorf("x: %w", Errorf(Source, "y")), Source},
		"outermost":           {Errorf(Device, "x: %w", Errorf(Source, "y")), Device},
		"cancelled":           {fmt.Errorf("x: %w", context.Canceled), Cancelled},
		"cancelled, classed":  {Errorf(Source, "x: %w", context.Canceled), Cancelled},
		"deadline":            {fmt.Errorf("x: %w", context.Cause(ended)), Cancelled},
		"deadline, joined":    {errors.Join(errors.New("x"), context.Cause(ended)), Cancelled},
		"limit of a device":   {Errorf(Device, "no answer: %w", context.DeadlineExceeded), Device},
		"timeout of a server": {fmt.Errorf("x: %w", timeout), Internal},
	} {
		if got := ClassOf(tt.err); got != tt.want {
			t.Errorf("%s: class %d, want %d", name, got, tt.want)
		}
	}
}
