package torture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const (
	// fullGarbage is how much a whole run sends; fewer rounds send less.
	fullGarbage = 1000
	// garbageEvery is after how many messages the guest is asked how it is.
	garbageEvery = 25
	// answerWait is how long an answer to a malformed request is waited for.
	answerWait = 200 * time.Millisecond
)

// runGarbage sends what is not a request to a guest at work.
func runGarbage(ctx context.Context, l *lab) ([]Result, error) {
	rng := l.random("garbage")
	m, err := l.newMachine(ctx, "garbage", copied)
	if err != nil {
		return nil, err
	}
	if _, err := m.boot(ctx); err != nil {
		return nil, err
	}
	before, err := m.status(ctx)
	if err != nil {
		return nil, err
	}
	kinds := []struct {
		name string
		send func(context.Context, *machine, *rand.Rand) error
	}{
		{"bytes", sendBytes}, {"hellos", sendHellos}, {"frames", sendFrames}, {"requests", sendRequest},
	}
	res := Result{Fault: "malformed requests and frames to the agent"}
	sent := make([]int, len(kinds))
	var heals []time.Duration
	f, err := m.checked(ctx, false, func(*commitLog) error {
		for n := min(fullGarbage, 100*l.Rounds); res.Times < n; {
			k := rng.IntN(len(kinds))
			if err := kinds[k].send(ctx, m, rng); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				res.Problems = append(res.Problems, fmt.Sprintf("message %d (%s): %v", res.Times+1, kinds[k].name, err))
			}
			sent[k]++
			if res.Times++; res.Times%garbageEvery != 0 && res.Times < n {
				continue
			}
			begin := time.Now()
			if err := m.guestReady(ctx, func(s *agent.Status) bool { return sameProcesses(before, s) }); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				res.Problems = append(res.Problems, fmt.Sprintf("after message %d: %v", res.Times, err))
				return nil
			}
			heals = append(heals, time.Since(begin))
			if res.Times%200 == 0 {
				l.say("garbage: %d messages", res.Times)
			}
		}
		return nil
	})
	res.Problems = append(res.Problems, f.Problems...)
	res.Heal = heal(heals)
	for i, k := range kinds {
		res.Figures = append(res.Figures, figure(k.name, "%d", sent[i]))
	}
	return []Result{res}, err
}

// sameProcesses says whether no service that was healthy was started anew.
func sameProcesses(before, now *agent.Status) bool {
	for _, s := range before.Services {
		if !s.Healthy {
			continue
		}
		if n, ok := now.Service(s.Name); !ok || n.PID != s.PID || n.Restarts != s.Restarts {
			return false
		}
	}
	return true
}

// sendBytes sends anything, without a hello.
func sendBytes(ctx context.Context, m *machine, rng *rand.Rand) error {
	return m.sendRaw(ctx, randomBytes(rng, 1+rng.IntN(64<<10)))
}

// sendHellos sends hellos that are nearly right: cut short, with a wrong
// version or nonce, too long, many at once.
func sendHellos(ctx context.Context, m *machine, rng *rand.Rand) error {
	var b bytes.Buffer
	for range 1 + rng.IntN(20) {
		line := fmt.Appendf(nil, "SOVEREIGN-AGENT %d %016x%016x\n", 1+rng.IntN(3), rng.Uint64(), rng.Uint64())
		switch rng.IntN(5) {
		case 0:
			line = line[:rng.IntN(len(line))]
		case 1:
			line[rng.IntN(len(line))] = byte(rng.Uint32())
		case 2:
			line = bytes.ToUpper(line)
		case 3:
			line = bytes.Repeat(line[:len(line)-1], 1+rng.IntN(10))
		}
		b.Write(line)
	}
	return m.sendRaw(ctx, b.Bytes())
}

func (m *machine) sendRaw(ctx context.Context, b []byte) error {
	line, err := m.rawLine(ctx)
	if err != nil {
		return err
	}
	_, err = line.Write(b)
	return errors.Join(err, line.Close())
}

// sendFrames says hello and then what is no frame of yamux's, or one that
// makes no sense: unknown versions and types, streams that are not open,
// lengths far beyond every window.
func sendFrames(ctx context.Context, m *machine, rng *rand.Rand) error {
	line, err := m.agentLine(ctx)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for range 1 + rng.IntN(50) {
		frame := make([]byte, 12)
		frame[0] = byte(rng.IntN(10) / 9)                                 // version
		frame[1] = byte(rng.IntN(5))                                      // type
		binary.BigEndian.PutUint16(frame[2:], uint16(rng.IntN(32)))       // flags
		binary.BigEndian.PutUint32(frame[4:], uint32(rng.IntN(12)))       // stream
		binary.BigEndian.PutUint32(frame[8:], rng.Uint32()>>rng.IntN(32)) // length
		b.Write(frame)
		b.Write(randomBytes(rng, rng.IntN(200)))
	}
	_, err = line.Write(b.Bytes())
	return errors.Join(err, line.Close())
}

// sendRequest opens a stream as it should be and sends a request that is none,
// or one that no endpoint can take. None of them is one that would stop the
// guest if it were well formed.
func sendRequest(ctx context.Context, m *machine, rng *rand.Rand) error {
	line, err := m.agentLine(ctx)
	if err != nil {
		return err
	}
	defer line.Close() //nolint:errcheck // the guest may have dropped it
	stream, err := openStream(line)
	if err != nil {
		return err
	}
	// The guest may end the stream while the request is still being sent, and
	// may answer or not: all that counts is that it is well afterwards.
	if _, err := stream.Write(badRequest(rng)); err == nil {
		if stream.SetReadDeadline(time.Now().Add(answerWait)) == nil {
			_, _ = io.CopyN(io.Discard, stream, 1)
		}
	}
	return nil
}

// badRequest draws a malformed request.
func badRequest(rng *rand.Rand) []byte {
	methods := []string{"GET", "POST", "PUT", "DELETE", "get", "", "\x00", "CONNECT", "PRI"}
	paths := []string{
		"/v1/status", "/v1/logs/", "/v1/logs/../../etc/shadow", "/v1/logs/%2e%2e%2fsecrets", "/v1/logs/postgresql?follow=maybe",
		"/v1/secrets/postgresql/../../../etc/shadow", "/v1/secrets/postgresql/%00", "/v1/secrets//", "/v1/freeze?seconds=-1",
		"/v1/freeze?seconds=99999999999999999999", "/v1/exec", "/v1/boot?x=%zz", "/v1/services/nobody/restart", "/v2/status", "*", "",
		"http://elsewhere/v1/status",
	}
	switch rng.IntN(6) {
	case 0:
		return randomBytes(rng, 1+rng.IntN(8<<10))
	case 1: // headers without end
		return append([]byte("GET /v1/status HTTP/1.1\r\nX: "), bytes.Repeat([]byte{'a'}, 32<<10)...)
	case 2: // a body that is not what it says, and too long
		return fmt.Appendf(nil, "POST /v1/exec HTTP/1.1\r\nHost: guest\r\nContent-Length: %d\r\n\r\n%s", rng.Uint64(), randomBytes(rng, 9<<10))
	case 3: // broken chunks
		return fmt.Appendf(nil, "PUT /v1/secrets/postgresql/password HTTP/1.1\r\nHost: guest\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s", rng.Uint64(), randomBytes(rng, 100))
	case 4: // JSON that no endpoint wants
		body := []string{`{"argv":[]}`, `{"argv":["/nothing"],"user":"nobody-at-all"}`, `{"argv":"sh"}`, `[`, `{"argv":["x"],"rows":99999999}`, `{"argv":["\u0000"]}`}[rng.IntN(6)]
		return fmt.Appendf(nil, "POST /v1/exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: sovereign-exec/1\r\nContent-Length: %d\r\n\r\n%s%s",
			len(body), body, randomBytes(rng, rng.IntN(300)))
	}
	version := []string{"HTTP/1.1", "HTTP/0.9", "HTTP/9.9", "", "HTTP/1.1\r\nHost: a\r\nHost: b"}[rng.IntN(5)]
	return fmt.Appendf(nil, "%s %s %s\r\n\r\n", methods[rng.IntN(len(methods))], paths[rng.IntN(len(paths))], version)
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}
