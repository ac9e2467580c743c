// Package usernet is a network for guests in user space: Ethernet frames come
// in from each guest as a stream of bytes, connections go out as ordinary
// sockets of this process. It needs no rights, no device and no rule on the
// host, and leaves nothing to undo.
//
// A [Network] is one Ethernet segment with a gateway. A guest is a [Link] to
// it, made by [Network.Join] from a [Member]: a name, an address, a hardware
// address, and whether it may reach the world. [Link.Serve] carries the frames
// of one stream. Between streams (a hypervisor or this program that started
// anew) the link stays, with its forwards and its open connections.
//
//	member ─ frames ─► Serve ─► switch ─┬─► another member
//	                                    ├─► ARP, neighbour discovery, DHCP: answered here
//	                                    └─► the gateway's TCP/IP stack ─┬─► TCP, UDP: sockets, if permitted
//	                                                                    └─► port 53: names
//	listener of the host ─► Forward ─► the stack ─► member
//
// # What a member reaches
//
// Other members, by address and by name ("db" and "db.internal"), the
// gateway's DNS, and with Outbound the world: TCP, UDP, and ICMP echo where the
// host's kernel gives this user ping sockets (net.ipv4.ping_group_range). It
// never reaches what [Network] counts as the host or as nobody's: see the
// table in filter.go. Each address is judged when it is connected to, by the
// number and by the host's own routing table, so that no name, no later answer
// for a name and no other way to write an address is a way in. What is
// refused is answered at once: TCP with RST, UDP and ping with ICMP.
//
// # Addresses
//
// A member has one IPv4 address and, in a network with IPv6, one IPv6 address.
// It may have them from its kernel command line or, for IPv4, by DHCP, which
// gives the same address always. There are no router advertisements: frames
// are held to the member's own addresses, so a guest cannot choose any.
// Frames with another sender, in Ethernet, ARP or IP, are dropped; members
// cannot take each other's addresses.
//
// # Limits
//
// limits.go has them all. A member that exceeds one loses its own connections
// or frames and nothing of the others'.
//
// The package knows nothing of hypervisors, records or devices.
package usernet
