package ext4

import "math/bits"

// nameHash is the hash an index keeps a name under: the kernel's half MD4 of
// unsigned bytes (fs/ext4/hash.c). The low bit of major is always clear; an
// index uses it to say that a hash goes on from the block before.
func nameHash(seed [4]uint32, name string) (major, minor uint32) {
	state := seed
	for n := len(name); n > 0; n -= 32 {
		in := hashInput(name, n)
		halfMD4(&state, &in)
		if n > 32 {
			name = name[32:]
		}
	}
	major = state[1] &^ 1
	const eof = 0x7fffffff << 1 // means "at the end" in a directory position
	if major == eof {
		major = eof - 2
	}
	return major, state[2]
}

// hashInput is str2hashbuf: up to 32 bytes of the name, padded with the length
// of all that is left of it.
func hashInput(name string, n int) (in [8]uint32) {
	pad := uint32(n) | uint32(n)<<8
	pad |= pad << 16
	for i := range in {
		in[i] = pad
	}
	val := pad
	n = min(n, 32)
	for i := range n {
		val = uint32(name[i]) + val<<8
		if i%4 == 3 {
			in[i/4] = val
			val = pad
		}
	}
	if n < 32 {
		in[n/4] = val
	}
	return in
}

func halfMD4(state *[4]uint32, in *[8]uint32) {
	const k2, k3 = 0x5a827999, 0x6ed9eba1
	f := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	g := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	h := func(x, y, z uint32) uint32 { return x ^ y ^ z }
	a, b, c, d := state[0], state[1], state[2], state[3]
	for i := 0; i < 8; i += 4 {
		a = bits.RotateLeft32(a+f(b, c, d)+in[i], 3)
		d = bits.RotateLeft32(d+f(a, b, c)+in[i+1], 7)
		c = bits.RotateLeft32(c+f(d, a, b)+in[i+2], 11)
		b = bits.RotateLeft32(b+f(c, d, a)+in[i+3], 19)
	}
	for i := 1; i >= 0; i-- {
		a = bits.RotateLeft32(a+g(b, c, d)+in[i]+k2, 3)
		d = bits.RotateLeft32(d+g(a, b, c)+in[i+2]+k2, 5)
		c = bits.RotateLeft32(c+g(d, a, b)+in[i+4]+k2, 9)
		b = bits.RotateLeft32(b+g(c, d, a)+in[i+6]+k2, 13)
	}
	for i := 3; i >= 0; i -= 2 {
		a = bits.RotateLeft32(a+h(b, c, d)+in[i]+k3, 3)
		d = bits.RotateLeft32(d+h(a, b, c)+in[i+4]+k3, 9)
		c = bits.RotateLeft32(c+h(d, a, b)+in[i-1]+k3, 11)
		b = bits.RotateLeft32(b+h(c, d, a)+in[i+3]+k3, 15)
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}
