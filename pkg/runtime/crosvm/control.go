package crosvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// crosvm's control socket takes one JSON message a packet and answers each with
// one (vm_control, VmRequest and VmResponse). A request that it does not
// understand is never answered, so that every one has a deadline; the program's
// own commands, which speak what their version speaks, are the other way to ask.

const (
	// answerLimit is how long an answer may take that crosvm itself gives.
	answerLimit = 1500 * time.Millisecond
	maxAnswer   = 256 << 10 // bytes
)

// response is VmResponse as far as it is of use.
type response struct {
	Ok        bool
	Err       unix.Errno
	ErrString string
	Balloon   *balloon
	// Other is the name of an answer that nobody here asks about.
	Other string
}

type balloon struct {
	Actual int64 `json:"balloon_actual"` // bytes
}

func (r *response) UnmarshalJSON(b []byte) error {
	var word string
	if json.Unmarshal(b, &word) == nil {
		r.Ok, r.Other = word == "Ok", word
		return nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	if len(all) != 1 {
		return fmt.Errorf("an answer with %d names", len(all))
	}
	for name, value := range all {
		r.Other = name
		switch name {
		case "Err":
			return json.Unmarshal(value, &r.Err)
		case "ErrString":
			return json.Unmarshal(value, &r.ErrString)
		case "BalloonStats":
			r.Balloon = new(balloon)
			return json.Unmarshal(value, r.Balloon)
		}
	}
	return nil
}

// err is what crosvm says went wrong.
func (r response) err() error {
	switch {
	case r.Err != 0:
		return fault.Wrap(fault.Device, r.Err)
	case r.ErrString != "":
		return fault.Errorf(fault.Device, "%s", r.ErrString)
	}
	return nil
}

// errNoAnswer is in the error of a request that was not answered, or not in a
// way that is understood.
var errNoAnswer = errors.New("crosvm gives no answer that is understood")

// errSilent is such an error of one that listens and says nothing: it may be that
// it does not understand.
var errSilent = fmt.Errorf("%w: nothing within %v", errNoAnswer, answerLimit)

// A request is one to a running machine: its JSON, and the program's own command
// for it, whose last word, the socket, is added.
type request struct {
	json    any
	command []string
}

var (
	reqExit   = request{"Exit", []string{"stop"}}
	reqResume = request{"ResumeVcpus", []string{"resume"}}
	reqAlive  = request{"VcpuPidTid", []string{"balloon_stats"}} // there is no command for it; this one has an answer
	reqStats  = request{map[string]any{"BalloonCommand": "Stats"}, []string{"balloon_stats"}}
)

func reqBalloon(bytes int64) request {
	return request{map[string]any{"BalloonCommand": map[string]any{"Adjust": map[string]any{"num_bytes": bytes, "wait_for_success": false}}},
		[]string{"balloon", strconv.FormatInt(bytes, 10)}}
}

func reqResize(disk int, size int64) request {
	return request{map[string]any{"DiskCommand": map[string]any{"disk_index": disk, "command": map[string]any{"Resize": map[string]any{"new_size": size}}}},
		[]string{"disk", "resize", strconv.Itoa(disk), strconv.FormatInt(size, 10)}}
}

// ask asks crosvm of the machine in dir.
func (d *Driver) ask(ctx context.Context, dir string, r request) (response, error) {
	answer, err := exchange(ctx, dir, r.json)
	if err == nil || len(r.command) == 0 || !errors.Is(err, errNoAnswer) || ctx.Err() != nil {
		return answer, fault.Wrap(fault.Device, err)
	}
	rec, recErr := readRecord(dir)
	if recErr != nil {
		return answer, errors.Join(err, recErr)
	}
	cmd := exec.CommandContext(ctx, rec.Program, append(r.command, controlSocket)...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, process.Environment(), time.Second
	out, cmdErr := cmd.Output()
	if cmdErr != nil {
		return answer, fault.Wrap(fault.Device, errors.Join(err, fmt.Errorf("%s %s: %w", rec.Program, r.command[0], cmdErr)))
	}
	if len(out) > 0 && json.Unmarshal(out, &answer) == nil {
		return answer, nil
	}
	return response{Ok: true}, nil
}

// do asks for something that is done or not.
func (d *Driver) do(ctx context.Context, dir string, r request) error {
	answer, err := d.ask(ctx, dir, r)
	if err != nil {
		return err
	}
	return answer.err()
}

// exchange sends one request and reads its answer. Where crosvm cannot be
// connected to at all, the error has no errNoAnswer.
func exchange(ctx context.Context, dir string, req any) (response, error) {
	var answer response
	text, err := json.Marshal(req)
	if err != nil {
		return answer, err
	}
	conn, err := process.DialPackets(ctx, filepath.Join(dir, controlSocket))
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	limit, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	defer context.AfterFunc(limit, func() { conn.Close() })()
	b := make([]byte, maxAnswer)
	n := 0
	if _, err = conn.Write(text); err == nil {
		n, err = conn.Read(b)
	}
	switch {
	case ctx.Err() != nil:
		return answer, fmt.Errorf("waiting for crosvm: %w", context.Cause(ctx))
	case limit.Err() != nil:
		return answer, errSilent
	case errors.Is(err, net.ErrClosed), err != nil:
		return answer, fmt.Errorf("%w: %w", errNoAnswer, err)
	case n == 0:
		return answer, fmt.Errorf("%w: it hung up", errNoAnswer)
	}
	if err := json.Unmarshal(b[:n], &answer); err != nil {
		return answer, fmt.Errorf("%w: %.100q: %w", errNoAnswer, b[:n], err)
	}
	return answer, nil
}
