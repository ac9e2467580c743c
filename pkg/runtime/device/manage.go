package device

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// programPath is where Install puts sovereignd, below the user's home
// directory: a place that every Linux lets every user write and run programs
// in.
const programPath = ".local/share/sovereign/sovereignd"

//go:embed common.sh
var commonScript string

//go:embed device.sh
var ofDevice string

//go:embed phone.sh
var ofPhone string

// deviceScript and phoneScript are what a device and a phone get to read.
var (
	deviceScript = commonScript + ofDevice
	phoneScript  = commonScript + ofPhone
)

// Facts is what a device says of itself.
type Facts struct {
	OS      string // "Linux"
	Machine string // as uname -m has it: "x86_64"
	User    string
	Program string // where Install puts sovereignd
	State   string // the directory of its machines
	// Digest is that of the sovereignd that is there, "sha256:…"; "" for none.
	Digest string
	// Beside is that of the sovereign-backup beside it.
	Beside string
	// Service is whose services systemd starts there: "system" for root's,
	// "user", or "" where there is none.
	Service string
	Unit    string // the file of sovereignd's service; "" for none
	Enabled bool   // it is started with the device
	Active  bool
	Linger  bool // the user's services run without a login
	QEMU    bool // of the device's own architecture
	KVM     bool // the user may use it
	// Phone is for a device that is reached by adb.
	Phone *PhoneFacts
}

// PhoneFacts is what a phone says of itself; "" and 0 are for what it does not.
// What takes root to see is not there without.
type PhoneFacts struct {
	Model       string `json:"model"`
	Android     string `json:"android"` // "16"
	SDK         int    `json:"sdk"`     // 36
	Fingerprint string `json:"fingerprint"`
	Kernel      string `json:"kernel"` // as uname -r has it
	// Root is how its shell becomes root: "su -c", "su 0", "adbd", or "" where
	// it does not; NoRoot then says why. "shell" is a phone without root whose own
	// service runs machines for the shell.
	Root   Root   `json:"root"`
	NoRoot string `json:"no_root,omitempty"`
	// Manager of root and its version: "magisk 28.1", "kernelsu …", "apatch".
	// It runs sovereignd at boot.
	Manager  string `json:"manager"`
	SafeMode bool   `json:"safe_mode"` // nothing of the manager's runs
	Booted   bool   `json:"booted"`
	// AVF: the hypervisor runs virtual machines; Protected: also ones whose
	// memory this host cannot read.
	AVF       bool   `json:"avf"`
	Protected bool   `json:"protected"`
	HV        string `json:"hypervisor"`          // its version
	Device    string `json:"hypervisor_device"`   // "/dev/kvm", "/dev/gunyah", "/dev/gzvm"
	CrosVM    string `json:"crosvm"`              // the program's path
	VM        string `json:"vm"`                  // the program of Android's own service
	PVMFW     string `json:"pvmfw"`               // the partition with the firmware of protected VMs
	Vsock     bool   `json:"vsock"`               // /dev/vhost-vsock
	SELinux   string `json:"selinux"`             // "Enforcing"
	Verified  string `json:"verified_boot_state"` // "green": the bootloader is locked
	// Bytes of /data and of it free, and its kind.
	DataSize   int64  `json:"data_size"`
	DataFree   int64  `json:"data_free"`
	FileSystem string `json:"data_file_system"`
	Memory     int64  `json:"memory"` // bytes
	Available  int64  `json:"memory_available"`
	Battery    int    `json:"battery"`  // percent
	Charging   string `json:"charging"` // "Charging", "Discharging", "Full", …
}

// Arch is the architecture in Go's words, or "" for one that there is no
// sovereignd for.
func (f Facts) Arch() string {
	a, _ := arch.OfUname(f.Machine)
	return a.Go
}

// Boots says whether sovereignd is started with the device.
func (f Facts) Boots() bool {
	if p := f.Phone; p != nil {
		return f.Unit != "" && p.Manager != "" && !p.SafeMode
	}
	return f.Enabled && (f.Service == "system" || f.Service == "user" && f.Linger)
}

// Look asks a device that is reached by ssh or adb for its facts. A phone that
// is not rooted, or does not let its shell be root, says what it can.
func Look(ctx context.Context, d Device) (Facts, error) {
	if d.kind != byADB {
		return look(ctx, d, false)
	}
	p, err := openPhones()
	if err != nil {
		return Facts{}, err
	}
	r, rootErr := p.root(ctx, d.to)
	if rootErr != nil && !errors.Is(rootErr, errNoRoot) && !errors.Is(rootErr, errRefused) {
		return Facts{}, d.at(rootErr)
	}
	f, err := look(ctx, d, rootErr != nil)
	if err == nil && f.Phone != nil {
		f.Phone.Root = r
		if rootErr != nil {
			f.Phone.NoRoot = rootErr.Error()
		}
	}
	return f, err
}

// at says where an error happened.
func (d Device) at(err error) error {
	if err == nil {
		return nil
	}
	return fault.Errorf(fault.ClassOf(err), "%s: %w", d, err).Hintf("%s", fault.HintOf(err))
}

func look(ctx context.Context, d Device, plain bool) (Facts, error) {
	s, err := openAs(ctx, d, plain)
	if err != nil {
		return Facts{}, err
	}
	defer s.close()
	return s.facts, nil
}

// Installed is what Install has done.
type Installed struct {
	Facts Facts
	// Changed says that another program, or none, was there before.
	Changed bool
}

// Install puts sovereignd on a device that is reached by ssh or adb: the one of
// the programs that is for it, checked by its digest on the far side and there
// whole or not at all. Where systemd starts services for the user, it starts
// sovereignd with the device, and so does the manager of root on a phone. A
// sovereignd that runs is replaced, and its
// machines run on. Interrupted, it can be done again.
//
// Where the programs have a sovereign-backup for the device, it is put beside
// sovereignd, which starts it for backups and restores; report says where they
// have none.
//
// report takes lines about what is going on.
func Install(ctx context.Context, d Device, programs Programs, report func(string)) (Installed, error) {
	s, err := open(ctx, d)
	if err != nil {
		return Installed{}, err
	}
	defer func() { s.close() }()
	f := s.facts
	if f.OS != "Linux" || f.Arch() == "" {
		return Installed{}, fault.Errorf(fault.Environment, "%s is %s on %s, and sovereignd runs on Linux on x86_64 and aarch64", d, f.OS, f.Machine)
	}
	p, err := programs.For(f.Arch())
	if err != nil {
		return Installed{}, err
	}
	defer p.Close()
	of := f.User
	if f.Phone != nil {
		of = f.Phone.Model
	}
	send := func(word string, p *Program) error {
		report(fmt.Sprintf("%s is %s of %s; sending %s (%.1f MiB)", d, f.Machine, of, p.Path, float64(p.Size)/(1<<20)))
		return s.send(word+" "+p.bare(), p)
	}
	// It is there before a sovereignd that may want it at once.
	backup, err := programs.ForBackups(f.Arch())
	switch {
	case err != nil:
		return Installed{}, err
	case backup == nil:
		report(fmt.Sprintf("without sovereign-backup: there is no %s in %s, and backups will not run there", backupName+"-linux-"+f.Arch(), programs))
	default:
		defer backup.Close()
		if f.Beside == backup.Digest {
			break
		}
		if err = send("beside", backup); err == nil {
			err = s.finish()
		}
		s.close()
		if err != nil {
			return Installed{}, err
		}
		next, err := open(ctx, d)
		if err != nil {
			return Installed{}, err
		}
		s = next
	}
	result := Installed{Changed: f.Digest != p.Digest}
	if result.Changed {
		err = send("put", p)
	} else {
		report(fmt.Sprintf("%s has this sovereignd already", d))
		err = s.send("keep", strings.NewReader(""))
	}
	if err == nil {
		err = s.finish()
	}
	if err != nil {
		return Installed{}, err
	}
	// What it says now is what came of it.
	result.Facts, err = Look(ctx, d)
	return result, err
}

// Remove takes sovereignd away from a device that is reached by ssh or adb, its
// service too, and what is empty then; with data also the directory of its
// machines. Machines that run must have been shut down before. Interrupted, it
// can be done again.
func Remove(ctx context.Context, d Device, data bool) (Facts, error) {
	s, err := open(ctx, d)
	if err != nil {
		return Facts{}, err
	}
	defer s.close()
	word := "remove"
	if data {
		word = "remove data"
	}
	if err := s.send(word, strings.NewReader("")); err != nil {
		return s.facts, err
	}
	return s.facts, s.finish()
}

const (
	// maxLine bounds a line of the script, maxLines how many lines are read
	// before the first of them: a login shell may greet at length.
	maxLine  = 4 << 10
	maxLines = 2000
	prefix   = "sovereign: "
)

// session is a run of the script.
type session struct {
	d     Device
	conn  *Conn
	lines *bufio.Scanner
	stop  func() bool // of the context's watch
	ctx   context.Context
	facts Facts
}

// open starts the script, which waits for a word then.
func open(ctx context.Context, d Device) (*session, error) { return openAs(ctx, d, false) }

// openAs starts it on a phone as the shell's user, with plain.
func openAs(ctx context.Context, d Device, plain bool) (*session, error) {
	script := deviceScript
	if d.kind == byADB {
		script = phoneScript
	}
	// The script comes by standard input: the user's login shell would have to
	// understand it else. It is read a byte at a time, since what follows is
	// not its own, and is run only whole: it is one function call at its end.
	command := fmt.Sprintf(`exec sh -c 'eval "$(dd bs=1 count=%d 2>/dev/null)"'`, len(script))
	var conn *Conn
	var err error
	switch d.kind {
	case bySSH:
		conn, err = d.ssh(ctx, command)
	case byADB:
		conn, err = d.phone(ctx, func(context.Context, *phones, Root) string { return command }, plain)
	default:
		err = fault.Errorf(fault.Usage, "%s is reached by neither ssh nor adb", d).
			Hintf("only ssh:HOST and adb:SERIAL can be installed to; elsewhere, put sovereignd there by hand")
	}
	if err != nil {
		return nil, err
	}
	s := newSession(ctx, d, conn)
	if err := s.begin(script); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func newSession(ctx context.Context, d Device, conn *Conn) *session {
	s := &session{d: d, ctx: ctx, conn: conn, lines: bufio.NewScanner(conn)}
	s.lines.Buffer(make([]byte, 0, maxLine), maxLine)
	s.stop = context.AfterFunc(ctx, func() { conn.Close() })
	return s
}

// begin sends the script and reads the facts.
func (s *session) begin(script string) error {
	if _, err := io.WriteString(s.conn, script); err != nil {
		return s.broken(err)
	}
	facts, err := parseFacts(s.next)
	if err != nil {
		return s.broken(err)
	}
	if s.facts = facts; s.d.kind != byADB {
		s.facts.Phone = nil
	}
	return nil
}

// parseFacts reads facts until the device is ready for a word.
func parseFacts(next func() (key, value string, err error)) (Facts, error) {
	var f Facts
	f.Phone = &PhoneFacts{}
	for {
		key, value, err := next()
		if err != nil {
			return f, err
		}
		if err := f.Phone.parse(key, value); err != nil {
			return f, err
		}
		switch key {
		case "os":
			f.OS = value
		case "machine":
			f.Machine = value
		case "user":
			f.User = value
		case "program":
			f.Program = value
		case "state":
			f.State = value
		case "digest":
			if f.Digest = "sha256:" + value; value == "" {
				return f, fault.Errorf(fault.Environment, "there is no sha256sum")
			}
		case "beside":
			f.Beside = "sha256:" + value
		case "service":
			f.Service = value
		case "unit":
			f.Unit = value
		case "enabled":
			f.Enabled = value == "enabled"
		case "active":
			f.Active = value == "active"
		case "linger":
			f.Linger = true
		case "qemu":
			f.QEMU = true
		case "kvm":
			f.KVM = true
		case "hypervisor-device":
			f.KVM = f.KVM || value == "/dev/kvm"
		case "ready":
			return f, nil
		}
	}
}

// parse takes a fact of a phone.
func (p *PhoneFacts) parse(key, value string) error {
	number := func(to *int64, unit int64) error {
		n, err := strconv.ParseInt(value, 10, 50)
		if err != nil || n < 0 {
			return fault.Errorf(fault.Device, "it says that its %s is %q", key, value)
		}
		*to = n * unit
		return nil
	}
	small := func(to *int) error {
		var n int64
		err := number(&n, 1)
		*to = int(n)
		return err
	}
	switch key {
	case "model":
		p.Model = value
	case "android":
		p.Android = value
	case "sdk":
		return small(&p.SDK)
	case "fingerprint":
		p.Fingerprint = value
	case "kernel":
		p.Kernel = value
	case "manager":
		p.Manager = value
	case "safemode":
		p.SafeMode = value == "1"
	case "booted":
		p.Booted = value == "1"
	case "avf":
		p.AVF = value == "1" || value == "true"
	case "protected":
		p.Protected = value == "1" || value == "true"
	case "hypervisor":
		p.HV = value
	case "hypervisor-device":
		p.Device = value
	case "crosvm":
		p.CrosVM = value
	case "vm":
		p.VM = value
	case "pvmfw":
		p.PVMFW = value
	case "vsock":
		p.Vsock = true
	case "selinux":
		p.SELinux = value
	case "verified":
		p.Verified = value
	case "data":
		size, free, _ := strings.Cut(value, " ")
		value = size
		if err := number(&p.DataSize, 1024); err != nil {
			return err
		}
		value = free
		return number(&p.DataFree, 1024)
	case "filesystem":
		p.FileSystem = value
	case "memory":
		return number(&p.Memory, 1024)
	case "available":
		return number(&p.Available, 1024)
	case "battery":
		return small(&p.Battery)
	case "charging":
		p.Charging = value
	}
	return nil
}

// next is the next line of the script's own; others are of a login shell.
func (s *session) next() (key, value string, err error) {
	for range maxLines {
		if !s.lines.Scan() {
			err := s.lines.Err()
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return "", "", err
		}
		text, ours := strings.CutPrefix(s.lines.Text(), prefix)
		if !ours {
			continue
		}
		key, value, _ = strings.Cut(printable.Line(text), " ")
		if key == "fail" {
			return "", "", fault.Errorf(fault.Environment, "%s", value)
		}
		return key, strings.TrimSpace(value), nil
	}
	return "", "", fault.Errorf(fault.Device, "it talks of other things")
}

// send says what is to be done and ends what the script reads.
func (s *session) send(word string, data io.Reader) error {
	_, err := io.Copy(struct{ io.Writer }{s.conn}, io.MultiReader(strings.NewReader(word+"\n"), data))
	if err == nil {
		err = s.conn.CloseWrite()
	}
	if err != nil {
		// The script may have said why it does not read on.
		if said := s.finish(); said != nil {
			return said
		}
	}
	return s.broken(err)
}

// finish reads on to the script's end.
func (s *session) finish() error {
	for {
		key, _, err := s.next()
		if err != nil {
			return s.broken(err)
		}
		if key == "finished" {
			return nil
		}
	}
}

// broken says where an error happened.
func (s *session) broken(err error) error {
	var own *fault.Error
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case errors.As(err, &own):
		return fault.Errorf(own.Class, "%s: %w", s.d, err).Hintf("%s", own.Hint)
	case errors.Is(err, os.ErrClosed):
		return fault.Errorf(fault.Device, "%s: the connection was closed", s.d)
	}
	return fault.Errorf(fault.Device, "%s: the connection broke: %w", s.d, err).Hintf("do it again")
}

func (s *session) close() {
	s.stop()
	s.conn.Close()
}
