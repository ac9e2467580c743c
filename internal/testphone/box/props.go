package box

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The property areas are laid out as bionic's prop_area.h has them, but for the
// trie over the names: who reads an area asks for a name's prop_info.
const (
	propDir     = "/dev/__properties__"
	propSocket  = "/dev/socket/property_service"
	areaSize    = 128 << 10
	areaData    = 128 // offset of data_
	areaMagic   = 0x504f5250
	areaVersion = 0xfc6ed0ab
	valueMax    = 92 // PROP_VALUE_MAX, with its NUL
)

// labels are the SELinux types whose properties have an area of their own here.
var labels = map[string]string{
	"sys.powerctl":           "u:object_r:powerctl_prop:s0",
	"sys.shutdown.requested": "u:object_r:exported_system_prop:s0",
}

const defaultLabel = "u:object_r:default_prop:s0"

// area is a file of properties, mapped.
type area struct {
	mem     []byte
	offsets map[string]int // of prop_infos
}

func newArea(path string) (*area, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(areaSize); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, areaSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(mem[0:], 20+valueMax) // the root node and the backup of a value
	binary.LittleEndian.PutUint32(mem[8:], areaMagic)
	binary.LittleEndian.PutUint32(mem[12:], areaVersion)
	return &area{mem, map[string]int{}}, nil
}

func (a *area) word(offset int) *uint32 { return (*uint32)(unsafe.Pointer(&a.mem[offset])) }

// set writes a value as prop_info has it: a serial that is odd meanwhile.
func (a *area) set(name, value string) error {
	if len(value) >= valueMax && !strings.HasPrefix(name, "ro.") {
		return fmt.Errorf("the value of %s is longer than %d bytes", name, valueMax-1)
	}
	value = value[:min(len(value), valueMax-1)]
	at, known := a.offsets[name]
	if !known {
		at = areaData + int(atomic.LoadUint32(a.word(0)))
		size := (4 + valueMax + len(name) + 1 + 3) &^ 3
		if at+size > areaSize {
			return errors.New("the area is full")
		}
		copy(a.mem[at+4:], value)
		copy(a.mem[at+4+valueMax:], name)
		atomic.StoreUint32(a.word(at), uint32(len(value))<<24)
		atomic.AddUint32(a.word(0), uint32(size))
		a.offsets[name] = at
		return nil
	}
	serial := atomic.LoadUint32(a.word(at)) & 0xffffff
	atomic.StoreUint32(a.word(at), serial|1)
	clear(a.mem[at+4 : at+4+valueMax])
	copy(a.mem[at+4:], value)
	atomic.StoreUint32(a.word(at), uint32(len(value))<<24|(serial+2)&0xffffff)
	return nil
}

// bump tells whoever waits for a change of any property.
func (a *area) bump() {
	atomic.AddUint32(a.word(4), 1)
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(a.word(4))), 1 /* FUTEX_WAKE */, 1<<30, 0, 0, 0) //nolint:errcheck // nobody may wait
}

// properties are the phone's, kept by init. Those that begin with persist. are in
// a file of /data.
type properties struct {
	mu      sync.Mutex
	values  map[string]string
	areas   map[string]*area
	serial  *area
	changed func(name, value string) // called without the lock
}

const persistFile = "/data/property/persistent_properties.json"

func newProperties() (*properties, error) {
	p := &properties{values: map[string]string{}, areas: map[string]*area{}}
	if err := os.MkdirAll(propDir, 0o711); err != nil {
		return nil, err
	}
	var err error
	if p.serial, err = newArea(filepath.Join(propDir, "properties_serial")); err != nil {
		return nil, err
	}
	for _, label := range append(slices.Collect(maps.Values(labels)), defaultLabel) {
		if p.areas[label], err = newArea(filepath.Join(propDir, label)); err != nil {
			return nil, err
		}
	}
	if text, err := os.ReadFile(persistFile); err == nil {
		var kept map[string]string
		if err := json.Unmarshal(text, &kept); err != nil {
			return nil, err
		}
		for name, value := range kept {
			if err := p.set(name, value); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

func (p *properties) set(name, value string) error {
	p.mu.Lock()
	if old, known := p.values[name]; known && strings.HasPrefix(name, "ro.") && old != value {
		p.mu.Unlock()
		return fmt.Errorf("%s is set already", name)
	}
	label := labels[name]
	if label == "" {
		label = defaultLabel
	}
	err := p.areas[label].set(name, value)
	if err == nil {
		p.values[name] = value
		p.serial.bump()
		if strings.HasPrefix(name, "persist.") {
			err = p.keep()
		}
	}
	changed := p.changed
	p.mu.Unlock()
	if err == nil && changed != nil {
		changed(name, value)
	}
	return err
}

func (p *properties) keep() error {
	kept := map[string]string{}
	for name, value := range p.values {
		if strings.HasPrefix(name, "persist.") && value != "" {
			kept[name] = value
		}
	}
	return writeJSON(persistFile, kept)
}

func writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// A message to the property service, and its answer.
type message struct {
	Set         bool
	Name, Value string
}

type answer struct {
	Error  string
	Values map[string]string
}

// serve answers getprop and setprop.
func (p *properties) serve() error {
	if err := os.MkdirAll(filepath.Dir(propSocket), 0o755); err != nil {
		return err
	}
	l, err := net.Listen("unix", propSocket)
	if err != nil {
		return err
	}
	if err := os.Chmod(propSocket, 0o666); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var m message
				if json.NewDecoder(conn).Decode(&m) != nil {
					return
				}
				json.NewEncoder(conn).Encode(p.answer(conn.(*net.UnixConn), m)) //nolint:errcheck // who asked may be gone
			}()
		}
	}()
	return nil
}

func (p *properties) answer(conn *net.UnixConn, m message) answer {
	if !m.Set {
		p.mu.Lock()
		defer p.mu.Unlock()
		return answer{Values: maps.Clone(p.values)}
	}
	// SELinux lets adb's shell set a few, and root all of them.
	if uid := peerUID(conn); uid != 0 && !strings.HasPrefix(m.Name, "debug.") && m.Name != "sys.powerctl" {
		return answer{Error: fmt.Sprintf("Unable to set property '%s' to '%s': error code: 0xb", m.Name, m.Value)}
	}
	if err := p.set(m.Name, m.Value); err != nil {
		return answer{Error: err.Error()}
	}
	return answer{}
}

func peerUID(conn *net.UnixConn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1
	}
	uid := -1
	raw.Control(func(fd uintptr) { //nolint:errcheck // then it is nobody
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(cred.Uid)
		}
	})
	return uid
}

// Ask asks the property service at a socket; root is "" in the phone, and
// /proc/PID/root outside.
func ask(root string, m message) (map[string]string, error) {
	conn, err := net.Dial("unix", root+propSocket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(m); err != nil {
		return nil, err
	}
	var a answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return nil, err
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Values, nil
}

// GetProp asks the phone whose root directory is seen at root for a property.
func GetProp(root, name string) (string, error) {
	values, err := ask(root, message{})
	return values[name], err
}

// SetProp sets one.
func SetProp(root, name, value string) error {
	_, err := ask(root, message{Set: true, Name: name, Value: value})
	return err
}

func getprop(args []string, stdout, stderr io.Writer) int {
	values, err := ask("", message{})
	if err != nil {
		return failed(stderr, "getprop", err)
	}
	switch len(args) {
	case 0:
		for _, name := range slices.Sorted(maps.Keys(values)) {
			fmt.Fprintf(stdout, "[%s]: [%s]\n", name, values[name])
		}
	case 1, 2:
		value := values[args[0]]
		if value == "" && len(args) == 2 {
			value = args[1]
		}
		fmt.Fprintln(stdout, value)
	default:
		//lint:ignore ST1005 these are Android's words
		return failed(stderr, "getprop", errors.New("Max 2 arguments"))
	}
	return 0
}

func setprop(args []string, _, stderr io.Writer) int {
	if len(args) != 2 {
		//lint:ignore ST1005 these are Android's words
		return failed(stderr, "setprop", errors.New("Need 2 arguments"))
	}
	if err := SetProp("", args[0], args[1]); err != nil {
		return failed(stderr, "setprop", err)
	}
	return 0
}

func reboot(args []string, _, stderr io.Writer) int {
	how := "reboot,"
	if len(args) == 1 && args[0] == "-p" {
		how = "shutdown,"
	}
	if err := SetProp("", "sys.powerctl", how); err != nil {
		return failed(stderr, "reboot", err)
	}
	select {} // until init ends it
}
