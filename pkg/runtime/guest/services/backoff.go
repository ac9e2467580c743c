package services

import "time"

// loopRow is how many ends in a row make the pauses long.
const loopRow = 20

// backoff is the pause before the next start.
type backoff struct {
	timing Timing
	next   time.Duration
	row    int // ends in a row without a long healthy time
}

// ended takes how long the service was healthy before it ended, and returns
// the pause.
func (b *backoff) ended(healthy time.Duration) time.Duration {
	if b.next == 0 || healthy >= b.timing.BackoffReset {
		b.next, b.row = b.timing.BackoffMin, 0
	}
	pause := b.next
	b.next = min(2*b.next, b.timing.BackoffMax)
	b.row++
	switch {
	case healthy > 0:
		return min(pause, b.timing.HealedMax)
	case b.row >= loopRow:
		return b.timing.LoopPause
	}
	return pause
}
