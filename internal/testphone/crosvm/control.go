package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// serveControl answers at the control socket: a JSON message a packet, one answer
// a request; what is not understood gets none (vm_control/src/lib.rs).
func (m *machine) serveControl(l *net.UnixListener) {
	l.SetUnlinkOnClose(true)
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			b := make([]byte, 64<<10)
			for {
				n, err := conn.Read(b)
				if err != nil || n == 0 {
					return
				}
				request, ok := m.understood(b[:n])
				if !ok {
					fmt.Fprintf(os.Stderr, "[ERROR:crosvm] failed to receive VmRequest: %.100q\n", b[:n])
					continue
				}
				text, err := json.Marshal(m.control(request))
				if err != nil {
					return
				}
				if _, err := conn.Write(text); err != nil {
					return
				}
			}
		}()
	}
}

// request is a VmRequest: a word, or a name with its fields.
type request struct {
	name string
	body json.RawMessage
}

func (m *machine) understood(b []byte) (r request, ok bool) {
	if m.s.OtherJSON {
		rest, ok := bytes.CutPrefix(b, []byte("v2 "))
		if !ok {
			return r, false
		}
		b = rest
	}
	if json.Unmarshal(b, &r.name) == nil {
		switch r.name {
		case "Exit", "Powerbtn", "Sleepbtn", "SuspendVcpus", "ResumeVcpus", "SuspendVm", "ResumeVm", "VcpuPidTid", "GetVmDescriptor":
			return r, true
		}
		return r, false
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(b, &all) != nil || len(all) != 1 {
		return r, false
	}
	for r.name, r.body = range all {
	}
	return r, r.name == "BalloonCommand" || r.name == "DiskCommand"
}

type object = map[string]any

func failed(err error) any   { return object{"ErrString": err.Error()} }
func errno(e unix.Errno) any { return object{"Err": int(e)} }

// control does what a request asks for.
func (m *machine) control(r request) any {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	execute := func(command string, args any) any {
		if err := m.execute(ctx, command, args, nil); err != nil {
			return failed(err)
		}
		return "Ok"
	}
	switch r.name {
	case "Exit":
		m.mu.Lock()
		m.exit = exitStop
		m.mu.Unlock()
		// The answer comes before the end.
		time.AfterFunc(50*time.Millisecond, func() { _ = m.execute(context.Background(), "quit", nil, nil) })
		return "Ok"
	case "Powerbtn":
		if m.arch == "arm64" {
			return errno(unix.ENOTSUP)
		}
		return execute("system_powerdown", nil)
	case "SuspendVcpus", "SuspendVm":
		return execute("stop", nil)
	case "ResumeVcpus", "ResumeVm":
		return execute("cont", nil)
	case "VcpuPidTid":
		pids := object{}
		for n := range m.c.cpus {
			pids[strconv.Itoa(n)] = []int{os.Getpid(), os.Getpid()}
		}
		return object{"VcpuPidTidResponse": object{"pid_tid_map": pids}}
	case "BalloonCommand":
		return m.balloon(ctx, r.body, execute)
	case "DiskCommand":
		return m.resize(ctx, r.body)
	}
	return errno(unix.ENOTSUP)
}

func (m *machine) balloon(ctx context.Context, body json.RawMessage, execute func(string, any) any) any {
	if m.c.noBalloon {
		return errno(unix.ENOTSUP)
	}
	memory := int64(m.c.memMiB) << 20
	var word string
	if json.Unmarshal(body, &word) == nil && word == "Stats" {
		var b struct{ Actual int64 }
		if err := m.execute(ctx, "query-balloon", nil, &b); err != nil {
			return failed(err)
		}
		return object{"BalloonStats": object{
			"stats":          object{"swap_in": nil, "swap_out": nil, "free_memory": nil, "total_memory": nil, "available_memory": nil, "disk_caches": nil},
			"balloon_actual": memory - b.Actual}}
	}
	var adjust struct {
		Adjust *struct {
			NumBytes *int64 `json:"num_bytes"`
			Wait     *bool  `json:"wait_for_success"`
		}
	}
	if err := json.Unmarshal(body, &adjust); err != nil || adjust.Adjust == nil || adjust.Adjust.NumBytes == nil || adjust.Adjust.Wait == nil {
		return errno(unix.EINVAL)
	}
	return execute("balloon", map[string]int64{"value": memory - *adjust.Adjust.NumBytes})
}

func (m *machine) resize(ctx context.Context, body json.RawMessage) any {
	var r struct {
		Index   *int `json:"disk_index"`
		Command struct {
			Resize *struct {
				Size int64 `json:"new_size"`
			}
		}
	}
	if err := json.Unmarshal(body, &r); err != nil || r.Index == nil || r.Command.Resize == nil {
		return errno(unix.EINVAL)
	}
	if *r.Index < 0 || *r.Index >= len(m.disks) {
		return errno(unix.ENODEV)
	}
	d := m.disks[*r.Index]
	if d.ro {
		return errno(unix.EROFS)
	}
	size := r.Command.Resize.Size
	if err := d.file.Truncate(size); err != nil {
		return failed(err)
	}
	if !d.sparse {
		if err := unix.Fallocate(int(d.file.Fd()), 0, 0, size); err != nil {
			return failed(err)
		}
	}
	if err := m.execute(ctx, "block_resize", object{"node-name": fmt.Sprintf("disk%d", *r.Index), "size": size}, nil); err != nil {
		return failed(err)
	}
	return "Ok"
}

// controlCommand is one of the program's own commands, which ask a machine that
// runs.
func controlCommand(s settings, name string, args []string, stdout io.Writer) error {
	words := map[string]string{"stop": "Exit", "suspend": "SuspendVcpus", "resume": "ResumeVcpus", "powerbtn": "Powerbtn"}
	if len(args) == 0 {
		return badf("Required positional arguments not provided:\n    socket_path")
	}
	socket, args := args[len(args)-1], args[:len(args)-1]
	var what any
	switch {
	case words[name] != "" && len(args) == 0:
		what = words[name]
	case name == "balloon_stats" && len(args) == 0:
		what = object{"BalloonCommand": "Stats"}
	case name == "balloon" && len(args) == 1:
		n, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return badf("Error parsing positional argument 'num_bytes' with value '%s'", args[0])
		}
		what = object{"BalloonCommand": object{"Adjust": object{"num_bytes": n, "wait_for_success": false}}}
	case name == "disk" && len(args) == 3 && args[0] == "resize":
		index, err := strconv.Atoi(args[1])
		size, sizeErr := strconv.ParseInt(args[2], 10, 64)
		if err != nil || sizeErr != nil {
			return badf("Error parsing positional argument with value '%s'", args[1])
		}
		what = object{"DiskCommand": object{"disk_index": index, "command": object{"Resize": object{"new_size": size}}}}
	default:
		return badf("Unrecognized argument: %s", name)
	}
	return ask(s, socket, what, name == "balloon_stats", stdout)
}

func ask(s settings, socket string, what any, show bool, stdout io.Writer) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	if s.OtherJSON {
		text = append([]byte("v2 "), text...)
	}
	path, err := filepath.Abs(socket)
	if err != nil {
		return err
	}
	conn, err := net.Dial("unixpacket", path)
	if err != nil {
		return fmt.Errorf("failed to connect to socket at '%s': %w", socket, err)
	}
	defer conn.Close()
	if _, err := conn.Write(text); err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	n, err := conn.Read(b)
	if err != nil {
		return err
	}
	if show {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, b[:n], "", "  "); err != nil {
			return err
		}
		_, err = fmt.Fprintln(stdout, pretty.String())
		return err
	}
	if string(b[:n]) != `"Ok"` {
		return fmt.Errorf("unexpected response: %s", b[:n])
	}
	return nil
}
