// Package stream holds readers that the standard library lacks: one that a
// context ends, one that a limit ends with an error, one of zeros.
package stream

import (
	"context"
	"io"
)

// WithContext reads r until ctx ends; then it returns the cause of that.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return &withContext{ctx, r} }

type withContext struct {
	ctx context.Context
	r   io.Reader
}

func (c *withContext) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// AtMost reads r, and returns err for the first byte beyond *left, which is
// what may still be read: readers that share it share the limit. (For
// io.LimitReader what is too long ends early and looks whole.)
func AtMost(r io.Reader, left *int64, err error) io.Reader { return &atMost{r, left, err} }

type atMost struct {
	r    io.Reader
	left *int64
	err  error
}

func (a *atMost) Read(p []byte) (int, error) {
	if *a.left < 0 {
		return 0, a.err
	}
	// One more than is left tells the end from what is too long. (left+1
	// wraps at the largest number, which no p is as long as.)
	if int64(len(p))-1 > *a.left {
		p = p[:*a.left+1]
	}
	n, err := a.r.Read(p)
	if *a.left -= int64(n); *a.left < 0 {
		return n - 1, a.err
	}
	return n, err
}

// Zeros reads zeros for ever.
var Zeros io.Reader = zeros{}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
