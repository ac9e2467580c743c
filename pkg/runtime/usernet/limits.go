package usernet

import "time"

// Limits of one member, unless said otherwise. Together they bound what a
// hostile guest makes this process hold: about 2.1 MiB for each of at most
// maxOutbound+maxInbound connections that are full in both directions, 64 KiB
// for each UDP socket, and maxQueue; in practice a thousandth of that.
const (
	// maxOutbound and maxInbound are the TCP connections from and to a member
	// at a time, those that are being opened and those that still close
	// included. Beyond, new ones are refused. They do not share a limit, so
	// that a guest that uses up its own is still reached by its owner.
	maxOutbound = 512
	maxInbound  = 512
	// maxBuffer is the most that one TCP connection holds in each direction,
	// in bytes. It starts with startBuffer and grows with what passes.
	maxBuffer   = 1 << 20
	startBuffer = 128 << 10
	// copyBuffer is between a socket of the host and a connection, in bytes.
	copyBuffer = 64 << 10
	// maxFlows is the UDP sockets of the host that a member has at a time. A
	// new one beyond takes the place of the one that was idle for longest.
	maxFlows = 256
	// maxRemotes is the addresses that one of these sockets takes packets
	// from. Beyond, the oldest has to be sent to anew.
	maxRemotes = 128
	// maxPings is the echo requests that wait for an answer.
	maxPings = 32
	// maxQueue is what waits to be read by a member, in bytes; more is
	// dropped, as by any switch.
	maxQueue = 8 << 20
	// maxQueries is the DNS queries in work. queryRate and queryBurst are
	// those in a second, and at once. More are dropped.
	maxQueries = 32
	queryRate  = 200
	queryBurst = 400

	// maxMembers is of a network.
	maxMembers = 1024
)

// Times.
const (
	// dialPatience is how long the world has for an answer to SYN.
	dialPatience = 30 * time.Second
	// flowIdle is how long a UDP socket is kept without a packet. RFC 4787,
	// REQ-5: at least 2 minutes.
	flowIdle = 2 * time.Minute
	// permitFor is how long a verdict on an address of a UDP flow holds, as
	// the host may get new addresses.
	permitFor = 10 * time.Second
	// echoPatience is how long an answer to a ping is waited for.
	echoPatience = 5 * time.Second
	// queryPatience is how long a resolver has, over all its own tries.
	queryPatience = 10 * time.Second
	// dnsIdle is how long a DNS connection over TCP may be silent; RFC 7766.
	dnsIdle = 10 * time.Second
	// timeWait is how long an ended TCP connection is remembered. The way to
	// a member has no queue that holds a packet for longer.
	timeWait = time.Second
)
