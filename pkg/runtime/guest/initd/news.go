package initd

import "sync"

// news tells any number of goroutines that there is something new. The zero
// value is ready for use.
type news struct {
	mu sync.Mutex
	ch chan struct{} // of those who wait; nil: nobody
}

// next is closed when tell is called the next time.
func (n *news) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}
