package device

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/printable"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/adb"
	"github.com/sovereign-build/sovereign/pkg/runtime/avf"
)

// phoneProgram is where Install puts sovereignd on a phone: a directory of
// root's alone, which the managers of root have all their own in, and which is
// there before anybody has unlocked the phone.
const phoneProgram = "/data/adb/sovereign/sovereignd"

// shellProgram is where it is on a phone without root: adb's shell may write there,
// and Android's own service for virtual machines may read what lies there.
const shellProgram = "/data/local/tmp/sovereign/sovereignd"

// Root is how a command runs as root on a phone.
type Root string

// Ways to root.
const (
	RootADBD Root = "adbd"  // adbd runs as root ("adb root")
	RootSuC  Root = "su -c" // Magisk, KernelSU, APatch: su -c 'COMMAND'
	RootSu0  Root = "su 0"  // userdebug builds: su 0 COMMAND
	NoRoot   Root = ""
	// Shell is no root: the shell itself, on a phone whose own service runs
	// machines for it.
	Shell Root = "shell"
)

// sovereignd is what is run there for one of its words.
func (r Root) sovereignd(word string) string {
	if r == Shell {
		return "exec " + shellProgram + " --android-shell " + word
	}
	return "exec " + phoneProgram + " --android " + word
}

// wrap is what the phone's shell runs for a command to run as root.
func (r Root) wrap(command string) string {
	switch r {
	case RootSuC:
		return "su -c " + adb.Quote(command)
	case RootSu0:
		return "su 0 sh -c " + adb.Quote(command)
	}
	return command
}

// probeRoot tries the ways. The first time, the phone may ask its owner.
const probeRoot = `if [ "$(id -u)" = 0 ]; then echo adbd
elif [ "$(su -c 'id -u' 2>/dev/null </dev/null)" = 0 ]; then echo su -c
elif [ "$(su 0 id -u 2>/dev/null </dev/null)" = 0 ]; then echo su 0
elif command -v su >/dev/null 2>&1; then echo refused
elif [ -x /apex/com.android.virt/bin/vm ] && [ "$(getprop ro.boot.hypervisor.vm.supported 2>/dev/null)" = 1 ]; then echo shell
else echo none; fi`

// phones is the way to phones: the adb server, and what is known of their root.
type phones struct {
	server *adb.Server
	// cache keeps how root is got there, a file a phone; "" keeps nothing.
	cache string
}

var openPhones = sync.OnceValues(func() (*phones, error) {
	server, err := adb.Default()
	if err != nil {
		return nil, err
	}
	p := &phones{server: server}
	// Without one it is asked for each time.
	if dir, err := os.UserCacheDir(); err == nil {
		p.cache = filepath.Join(dir, "sovereign", "root-of-phones")
	}
	return p, nil
})

func (p *phones) cacheFile(serial string) string {
	sum := sha256.Sum256([]byte(serial))
	return filepath.Join(p.cache, hex.EncodeToString(sum[:16]))
}

// root is how root is got on a phone, as it was found once. errNoRoot and
// errRefused are below the errors for where it is not.
func (p *phones) root(ctx context.Context, serial string) (Root, error) {
	if p.cache != "" {
		if text, err := os.ReadFile(p.cacheFile(serial)); err == nil {
			if r := Root(strings.TrimSpace(string(text))); r == RootADBD || r == RootSuC || r == RootSu0 {
				return r, nil
			}
		}
	}
	out, err := p.server.Output(ctx, serial, probeRoot)
	if err != nil {
		return NoRoot, err
	}
	switch r := Root(strings.TrimSpace(out)); r {
	case RootADBD, RootSuC, RootSu0:
		p.remember(serial, r)
		return r, nil
	case Shell: // asked again each time: its owner may root it
		return r, nil
	case "refused":
		return NoRoot, fault.Errorf(fault.Device, "%w", errRefused).
			Hintf("allow it for the shell (com.android.shell) in the app of Magisk, KernelSU or APatch, under superuser, and do it again")
	case "none":
		return NoRoot, fault.Errorf(fault.Environment, "%w", errNoRoot).
			Hintf("it has no virtual machines of Android's own either, which would do; docs/phone.md has how a phone is rooted, and Termux")
	default:
		return NoRoot, fault.Errorf(fault.Device, "the phone's shell answers %q when asked for root", printable.Line(string(r)))
	}
}

var (
	errRefused = errors.New("the phone does not let its shell be root")
	errNoRoot  = errors.New("the phone is not rooted: there is no su")
)

// remember keeps what was found. That it cannot be kept costs a question.
func (p *phones) remember(serial string, r Root) {
	if p.cache == "" {
		return
	}
	if err := os.MkdirAll(p.cache, 0o700); err == nil {
		_ = atomicfile.Write(p.cacheFile(serial), []byte(r), 0o600)
	}
}

// forget has root be looked for again: the phone may have another one by now.
func (p *phones) forget(serial string) {
	if p.cache == "" {
		return
	}
	if err := os.Remove(p.cacheFile(serial)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return // it is looked at again then, and fails again
	}
}

// runRoot runs a command as root.
func (p *phones) runRoot(ctx context.Context, serial, command string, r Root, c *Conn, in, out *os.File) error {
	err := p.server.Run(ctx, serial, r.wrap(command), in, out, &c.said)
	var exit *adb.ExitError
	if r != RootADBD && r != Shell && errors.As(err, &exit) && !strings.HasPrefix(c.said.String(), "sovereignd: ") {
		p.forget(serial) // it may be su that failed
	}
	return err
}

// relay carries what the sovereignd of a phone without root has to say to guests
// there, until ctx ends: adbd opens vsock for this computer, and for nobody there.
func (p *phones) relay(ctx context.Context, serial string) error {
	theirIn, in := io.Pipe()
	out, theirOut := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := p.server.Run(ctx, serial, Shell.sovereignd("relay"), theirIn, theirOut, io.Discard)
		theirOut.CloseWithError(io.EOF)
		theirIn.CloseWithError(io.ErrClosedPipe)
		ended <- err
	}()
	open := func(ctx context.Context, cid, port uint32) (net.Conn, error) {
		return p.server.Open(ctx, serial, fmt.Sprintf("vsock:%d:%d", cid, port))
	}
	err := avf.ServeRelay(ctx, &duplex{out, in}, open)
	cancel()
	return errors.Join(err, <-ended)
}

// duplex is a stream of two pipes.
type duplex struct {
	*io.PipeReader
	in *io.PipeWriter
}

func (d *duplex) Write(b []byte) (int, error) { return d.in.Write(b) }

func (d *duplex) Close() error { return errors.Join(d.in.Close(), d.PipeReader.Close()) }

// relayAgain is the pause before a relay that has ended is begun again.
const relayAgain = time.Second

// keepRelay keeps a relay going until ctx ends.
func (p *phones) keepRelay(ctx context.Context, serial string) {
	for ctx.Err() == nil {
		// The conversation itself says what is wrong with the phone or the link.
		_ = p.relay(ctx, serial)
		if pause.For(ctx, relayAgain) != nil {
			return
		}
	}
}

// phoneConnect is the conversation with a phone's sovereignd; on one without root
// this computer is the way to its guests meanwhile.
func (d Device) phoneConnect(ctx context.Context) (*Conn, error) {
	return d.phone(ctx, func(ctx context.Context, p *phones, r Root) string {
		if r == Shell {
			go p.keepRelay(ctx, d.to)
		}
		return r.sovereignd("connect")
	}, false)
}

// phone starts a command on a phone that adb reaches, as root or, with plain,
// as the shell's user. The command may depend on how root is got; its context is
// that of the command's life.
func (d Device) phone(ctx context.Context, command func(context.Context, *phones, Root) string, plain bool) (*Conn, error) {
	p, err := openPhones()
	if err != nil {
		return nil, err
	}
	return begin(ctx, d, func(c *Conn, in, out *os.File) (wait func() error, end func(os.Signal) error, err error) {
		run, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan error, 1)
		go func() {
			defer cancel()
			// Whatever comes of it, the streams end.
			defer in.Close()
			defer out.Close()
			r := NoRoot
			if !plain {
				var err error
				if r, err = p.root(run, d.to); err != nil {
					done <- err
					return
				}
			}
			done <- p.runRoot(run, d.to, command(run, p, r), r, c, in, out)
		}()
		wait = func() error { return <-done }
		end = func(os.Signal) error {
			cancel()
			return nil
		}
		return wait, end, nil
	})
}

// Serial is the serial number of a device that is reached by adb.
func (d Device) Serial() (serial string, ok bool) { return d.to, d.kind == byADB }

// Phone is the device with a serial number.
func Phone(serial string) Device { return Device{byADB, serial} }

// Phones lists the phones that the adb server knows. Without start, where no
// server runs there are none.
func Phones(ctx context.Context, start bool) ([]adb.Phone, error) {
	p, err := openPhones()
	if err != nil {
		return nil, err
	}
	if !start && !p.server.Running(ctx) {
		return nil, nil
	}
	return p.server.Phones(ctx)
}
