package erofs

import (
	"encoding/binary"
	"math/bits"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// LZ4's block format: sequences of literals and a match, each with a token
// that has both lengths, the match with its distance; literals alone at the
// end. See lz4_Block_format.md of the LZ4 project.
const (
	lz4MinMatch = 4
	lz4Distance = 1<<16 - 1
	// The last five bytes are literals, and no match begins in the last
	// twelve: decoders write that far beyond.
	lz4LastLiterals = 5
	lz4LastMatch    = 12
	// lz4Reserve is what a block needs behind a match to end well.
	lz4Reserve = 1 + lz4LastMatch

	lz4HashBits = 15
	// lz4Window is how much is planned at once. The rest of a window in
	// which an extent ends is searched again.
	lz4Window = 16 << 10
)

// lz4Compressor fills blocks of a given size. There is one distance for all
// lengths of a match, so that the longest one at each place is all that the
// cheapest way through a window has to know.
type lz4Compressor struct {
	lz4Effort
	src   []byte
	prev  []int32 // the place before with the same hash
	head  []int32
	match [lz4Window]lz4Match
	cost  [lz4Window + 1]int32
	step  [lz4Window]int32
	out   []byte
}

type lz4Match struct{ length, distance int32 }

// lz4Effort is what a level does.
type lz4Effort struct {
	depth int   // candidates that are compared at each place
	long  int32 // a match that long is taken without a look for a better one
	try   int32 // lengths up to that are weighed of a longer match
}

var lz4Efforts = [...]lz4Effort{1: {2, 12, 6}, 2: {8, 32, 10}, 3: {32, 64, 18}, 4: {192, 256, 24}}

func newLZ4(level, limit int) *lz4Compressor {
	return &lz4Compressor{lz4Effort: lz4Efforts[level], head: make([]int32, 1<<lz4HashBits), out: make([]byte, 0, limit)}
}

// begin implements compressor.
func (c *lz4Compressor) begin(src []byte) error {
	c.src = src
	if len(c.prev) < len(src) {
		c.prev = make([]int32, len(src))
	}
	for i := range c.head {
		c.head[i] = -1
	}
	for i := 0; i+lz4MinMatch <= len(src); i++ {
		h := binary.LittleEndian.Uint32(src[i:]) * 2654435761 >> (32 - lz4HashBits)
		c.prev[i] = c.head[h]
		c.head[h] = int32(i)
	}
	return nil
}

// next implements compressor.
func (c *lz4Compressor) next(start, limit int) (out []byte, taken int, err error) {
	c.out = c.out[:0]
	literals := start // where those begin that are not yet written
	for at := start; at < len(c.src); {
		end := min(at+lz4Window, len(c.src))
		c.find(start, at, end)
		c.plan(end - at)
		for i := at; i < end; {
			step := int(c.step[i-at])
			if step == 1 {
				i++
				// More literals than fit end the block.
				if len(c.out)+i-literals > limit {
					return c.finish(start, literals, limit)
				}
				continue
			}
			if len(c.out)+lz4Size(i-literals, step)+lz4Reserve > limit {
				return c.finish(start, literals, limit)
			}
			c.sequence(c.src[literals:i], step, int(c.match[i-at].distance))
			i += step
			literals = i
		}
		at = end
	}
	return c.finish(start, literals, limit)
}

// find looks for the longest match at each place from at to end that begins
// at start or later.
func (c *lz4Compressor) find(start, at, end int) {
	last := len(c.src) - lz4LastMatch
	stop := len(c.src) - lz4LastLiterals
	var m lz4Match
	for i := at; i < end; i++ {
		// What matched at the place before does so here, one byte less.
		if m.length--; m.length < lz4MinMatch {
			m = lz4Match{}
		}
		if i > last {
			c.match[i-at] = lz4Match{}
			continue
		}
		if m.length < c.long {
			m = c.longest(i, max(start, i-lz4Distance), stop, m)
		}
		c.match[i-at] = m
	}
}

// longest is the longest match at a place, or m.
func (c *lz4Compressor) longest(i, from, stop int, m lz4Match) lz4Match {
	src := c.src
	// A longer match has the bytes around the end of the best one too.
	key := max(int(m.length)-3, 0)
	if i+key+lz4MinMatch > stop {
		return m
	}
	want := binary.LittleEndian.Uint32(src[i+key:])
	for p, n := int(c.prev[i]), c.depth; p >= from && n > 0; p, n = int(c.prev[p]), n-1 {
		if binary.LittleEndian.Uint32(src[p+key:]) != want {
			continue
		}
		length := common(src[p:], src[i:stop])
		if length > int(m.length) && length >= lz4MinMatch {
			m = lz4Match{int32(length), int32(i - p)}
			if length >= int(c.long) || i+length >= stop {
				return m
			}
			key = length - 3
			want = binary.LittleEndian.Uint32(src[i+key:])
		}
	}
	return m
}

// common is how many bytes a and b begin with that are the same; b is not
// longer.
func common(a, b []byte) int {
	n := 0
	for len(b)-n >= 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
		n += 8
	}
	for n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// plan takes the cheapest way through a window of n bytes, from its end to its
// beginning. The cost of many literals in a row is left out.
func (c *lz4Compressor) plan(n int) {
	c.cost[n] = 0
	for i := n - 1; i >= 0; i-- {
		cost, step := c.cost[i+1]+1, int32(1)
		if length := min(c.match[i].length, int32(n-i)); length >= lz4MinMatch {
			if v := c.cost[i+int(length)] + 3 + (length-lz4MinMatch+255-15)/255; v < cost {
				cost, step = v, length
			}
			for l := min(length-1, c.try); l >= lz4MinMatch && step > 1; l-- {
				v := c.cost[i+int(l)] + 3
				if l-lz4MinMatch >= 15 {
					v++
				}
				if v < cost {
					cost, step = v, l
				}
			}
		}
		c.cost[i], c.step[i] = cost, step
	}
}

// lz4Size is how long a sequence is.
func lz4Size(literals, length int) int {
	n := 1 + literals
	if literals >= 15 {
		n += 1 + (literals-15)/255
	}
	if length >= lz4MinMatch {
		n += 2
		if length-lz4MinMatch >= 15 {
			n += 1 + (length-lz4MinMatch-15)/255
		}
	}
	return n
}

// sequence writes literals and a match, or at the end literals alone.
func (c *lz4Compressor) sequence(literals []byte, length, distance int) {
	token := byte(min(len(literals), 15) << 4)
	if length > 0 {
		token |= byte(min(length-lz4MinMatch, 15))
	}
	c.out = append(c.out, token)
	c.more(len(literals) - 15)
	c.out = append(c.out, literals...)
	if length > 0 {
		c.out = binary.LittleEndian.AppendUint16(c.out, uint16(distance))
		c.more(length - lz4MinMatch - 15)
	}
}

// more writes what of a length the token does not hold.
func (c *lz4Compressor) more(n int) {
	if n < 0 {
		return
	}
	for ; n >= 255; n -= 255 {
		c.out = append(c.out, 255)
	}
	c.out = append(c.out, byte(n))
}

// finish ends a block with as many literals as there is room for.
func (c *lz4Compressor) finish(start, literals, limit int) ([]byte, int, error) {
	room := limit - len(c.out)
	n := min(len(c.src)-literals, room)
	for lz4Size(n, 0) > room {
		n--
	}
	c.sequence(c.src[literals:literals+n], 0, 0)
	return c.out, literals + n - start, nil
}

// lz4Decompress decompresses to exactly dst. A block may hold more than that.
func lz4Decompress(dst, src []byte) error {
	n := 0
	for n < len(dst) {
		if len(src) == 0 {
			return errLZ4
		}
		token := src[0]
		src = src[1:]
		literals, rest, ok := lz4Length(int(token>>4), src)
		if !ok || literals > len(rest) {
			return errLZ4
		}
		copied := copy(dst[n:], rest[:literals])
		n, src = n+copied, rest[literals:]
		if n == len(dst) {
			return nil
		}
		if len(src) < 2 {
			return errLZ4
		}
		distance := int(binary.LittleEndian.Uint16(src))
		length, rest, ok := lz4Length(int(token&15), src[2:])
		if !ok || distance == 0 || distance > n {
			return errLZ4
		}
		src = rest
		end := min(n+length+lz4MinMatch, len(dst))
		for n < end { // the match may reach into itself
			n += copy(dst[n:end], dst[n-distance:n])
		}
	}
	return nil
}

var errLZ4 = fault.Errorf(fault.Source, "damaged LZ4 data")

// lz4Length reads the rest of a length of which the token has n.
func lz4Length(n int, src []byte) (int, []byte, bool) {
	if n < 15 {
		return n, src, true
	}
	for i, b := range src {
		n += int(b)
		if b != 255 {
			return n, src[i+1:], true
		}
	}
	return 0, nil, false
}
