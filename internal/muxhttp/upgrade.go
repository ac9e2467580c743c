package muxhttp

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"
)

// Wants says whether a request asks for an upgrade to a protocol, and answers
// 426 where it does not.
func Wants(w http.ResponseWriter, r *http.Request, protocol string) bool {
	if r.Header.Get("Upgrade") == protocol {
		return true
	}
	w.Header().Set("Upgrade", protocol)
	http.Error(w, "want Upgrade: "+protocol, http.StatusUpgradeRequired)
	return false
}

// Upgrade makes of a request's stream what the protocol says: conn is the
// caller's, r is to be read in its place. It has no deadlines.
func Upgrade(w http.ResponseWriter, protocol string) (conn net.Conn, r *bufio.Reader, err error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err = conn.SetDeadline(time.Time{}); err == nil {
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
	}
	if err != nil {
		conn.Close()
		return nil, nil, err // the peer is gone
	}
	return conn, buffered.Reader, nil
}
