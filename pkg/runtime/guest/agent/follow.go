package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// ErrAnsweredOnce is FollowStatus's error where the guest's image is too old to
// tell its changes: it gave its status once.
var ErrAnsweredOnce = errors.New("the guest does not tell of changes")

// FollowStatus gives the guest's status to each: at once, whenever it has
// changed, and after beat (whole seconds, to an hour) where it has not. Between
// them nothing is sent, and nobody is woken. It ends with ctx, with each's error,
// with the session, and when nothing has come for patience longer than beat; each
// is an error. One of a guest whose image is too old is ErrAnsweredOnce, after one
// status.
func (c *Client) FollowStatus(ctx context.Context, beat, patience time.Duration, each func(*Status) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(patience, func() {
		cancel(fault.Errorf(fault.Device, "guest agent: it has said nothing for %v: %w", patience, context.DeadlineExceeded))
	})
	defer silent.Stop()
	resp, err := c.do(ctx, http.MethodGet, "/v1/status?follow="+strconv.Itoa(int(beat/time.Second)), nil)
	if err != nil {
		return ended(ctx, err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		silent.Reset(beat + patience)
		var s Status
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return fault.Errorf(fault.Device, "guest agent: status: %w", err).
				Hintf("rebuild the image: its sovereign-init does not fit this program")
		}
		if err := each(&s); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return ended(ctx, fault.Errorf(classOf(err), "guest agent: status: %w", err))
	}
	if ctx.Err() != nil { // the last line came, and then the end
		return context.Cause(ctx)
	}
	if resp.Header.Get("Content-Type") != follows {
		return fault.Wrap(fault.Device, fmt.Errorf("guest agent: %w", ErrAnsweredOnce))
	}
	return fault.Errorf(fault.Device, "guest agent: status: the guest ended it")
}

// ended is the error of a call, or why its context ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
