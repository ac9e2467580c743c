package upkeep

import (
	"context"
	"fmt"
	"slices"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
)

// Verify is store.Verify, and says of damaged blobs that locks name what they
// are.
func Verify(ctx context.Context, st *store.Store, o store.VerifyOptions) (store.Verified, error) {
	v, err := st.Verify(ctx, o)
	if err != nil || len(v.Damaged) == 0 {
		return v, err
	}
	roots, err := st.Roots()
	if err != nil {
		return v, err
	}
	uses := map[store.Digest][]string{}
	for _, r := range roots {
		if r.Kind != store.LockRoot {
			continue
		}
		l, err := lock.Load(r.Path)
		if err != nil {
			continue // a lock that is gone or damaged names nothing any more
		}
		for _, b := range l.Inputs() {
			uses[b.Digest] = append(uses[b.Digest], fmt.Sprintf("%s in %s", b.Name, r.Path))
		}
	}
	for i := range v.Damaged {
		d := &v.Damaged[i]
		d.Uses = append(d.Uses, uses[d.Digest]...)
		slices.Sort(d.Uses)
		d.Uses = slices.Compact(d.Uses)
	}
	return v, nil
}
