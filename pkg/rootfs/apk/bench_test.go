package apk

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// BenchmarkSolve is a world of 100 packages among 10,000, each with five
// dependencies and two versions.
func BenchmarkSolve(b *testing.B) {
	var text strings.Builder
	for i := range 5000 {
		for v := range 2 {
			fmt.Fprintf(&text, "p%d 1.%d-r0", i, v)
			for d := range 5 {
				if to := i + 1 + d*d*37; to < 5000 {
					fmt.Fprintf(&text, " so:lib%d.so.1", to)
				}
			}
			fmt.Fprintf(&text, " | so:lib%d.so.1=1.%d cmd:p%d=1.%d-r0\n", i, v, i, v)
		}
	}
	repos := []Repository{packages(b, "ports", text.String())}
	var world []string
	for i := range 100 {
		world = append(world, fmt.Sprintf("p%d", 4000+i*10))
	}
	s := NewSolver(repos)
	b.Run("solve", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Solve(context.Background(), world); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			NewSolver(repos)
		}
	})
}
