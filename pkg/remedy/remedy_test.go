package remedy

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestOf(t *testing.T) {
	inner := fault.Errorf(fault.Usage, "it is not locked").Hintf("lock it")
	err := fmt.Errorf("zlib: %w", By(Remedy{Kind: Update, Inputs: []string{"zlib"}}, inner))
	r, ok := Of(err)
	if !ok || r.Kind != Update || r.Inputs[0] != "zlib" {
		t.Errorf("%+v, %v", r, ok)
	}
	if err.Error() != "zlib: it is not locked" || fault.ClassOf(err) != fault.Usage || fault.HintOf(err) != "lock it" || !errors.Is(err, inner) {
		t.Errorf("the error inside is hidden: %v", err)
	}
	outer := By(Remedy{Kind: Lock}, err)
	if r, ok := Of(outer); !ok || r.Kind != Lock {
		t.Errorf("%+v, %v", r, ok)
	}
	if r, ok := Of(inner); ok {
		t.Errorf("an error without one has %+v", r)
	}
}
