package uki

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

var _ rootfs.Content = (*Image)(nil)

// debianStub is the stub of Debian's systemd-boot-efi.
const debianStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// Of the PE format's "Machine Types".
const (
	AMD64 Machine = 0x8664
	ARM64 Machine = 0xaa64
)

// fake is a PE program with the sections named, each of one block of data.
func fake(machine Machine, names ...string) []byte {
	const headers, align = 1024, 512
	b := make([]byte, headers+len(names)*align)
	copy(b, "MZ")
	b[signatureAt] = dosSize
	h := b[dosSize:]
	le := binary.LittleEndian
	copy(h, "PE\x00\x00")
	le.PutUint16(h[4:], uint16(machine))
	le.PutUint16(h[6:], uint16(len(names)))
	le.PutUint16(h[20:], 240)
	o := h[coffSize:]
	le.PutUint16(o, pe32Plus)
	le.PutUint32(o[32:], 4096)
	le.PutUint32(o[36:], align)
	le.PutUint32(o[56:], uint32(4096*(1+len(names))))
	le.PutUint32(o[60:], headers)
	le.PutUint16(o[68:], efiProgram)
	le.PutUint32(o[108:], 16)
	le.PutUint64(o[optionalFixed+securityDirectory*directorySize:], 0x1234) // a signature
	for i, name := range names {
		s := o[240+i*sectionSize:]
		copy(s[:8], name)
		le.PutUint32(s[8:], 300)
		le.PutUint32(s[12:], uint32(4096*(1+i)))
		le.PutUint32(s[16:], align)
		le.PutUint32(s[20:], uint32(headers+i*align))
		le.PutUint32(s[36:], dataFlags)
		copy(b[headers+i*align:], "contents of "+name+"\n")
	}
	return append(b, "symbols that nobody needs"...)
}

func parts() Parts {
	return Parts{
		Stub:      inMemory(fake(AMD64, ".text", ".sbat", ".reloc")),
		Linux:     inMemory(fake(AMD64, ".setup")),
		Initrd:    inMemory(bytes.Repeat([]byte("initrd "), 1000)),
		Cmdline:   "console=ttyS0 quiet",
		OSRelease: "ID=sovereign\nPRETTY_NAME=\"Sovereign\"\n",
		Uname:     "6.12.117",
	}
}

func read(t testing.TB, i *Image) []byte {
	t.Helper()
	r, err := i.Open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil || int64(len(b)) != i.Size() {
		t.Fatalf("%d bytes, size %d; %v", len(b), i.Size(), err)
	}
	return b
}

// section returns what a loader finds in memory, by another parser.
func sectionOf(t *testing.T, image []byte, name string) string {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	for _, s := range f.Sections {
		if s.Name != name {
			continue
		}
		if found != "" {
			t.Errorf("two sections %s", name)
		}
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		found = string(data[:min(int(s.VirtualSize), len(data))])
	}
	return found
}

func TestNew(t *testing.T) {
	stubs := map[string]*io.SectionReader{"small": parts().Stub}
	if data, err := os.ReadFile(debianStub); err == nil {
		stubs["systemd"] = inMemory(data)
	} else {
		t.Log("systemd's stub is not installed (Debian: systemd-boot-efi)")
	}
	for name, stub := range stubs {
		t.Run(name, func(t *testing.T) {
			p := parts()
			p.Stub = stub
			i, err := New(p)
			if err != nil {
				t.Fatal(err)
			}
			b := read(t, i)
			linux, initrd := make([]byte, p.Linux.Size()), make([]byte, p.Initrd.Size())
			if _, err := p.Linux.ReadAt(linux, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Initrd.ReadAt(initrd, 0); err != nil {
				t.Fatal(err)
			}
			for section, want := range map[string]string{
				".cmdline": p.Cmdline, ".osrel": p.OSRelease, ".uname": p.Uname, ".initrd": string(initrd),
			} {
				if got := sectionOf(t, b, section); got != want {
					t.Errorf("%s is %.60q, want %.60q", section, got, want)
				}
			}
			if got := sectionOf(t, b, ".linux"); !strings.HasPrefix(got, string(linux)) {
				t.Errorf(".linux is %d bytes and not the kernel", len(got))
			}
			if !bytes.Equal(b, read(t, i)) {
				t.Error("reading twice gives two images")
			}
			checkLayout(t, b)
			// An image is a program, but not a stub to build on.
			p.Stub = inMemory(b)
			if _, err := New(p); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("an image as a stub: %v", err)
			}
		})
	}
}

// checkLayout wants sections that lie one after the other, in memory and in the
// file, each where its alignment asks.
func checkLayout(t *testing.T, image []byte) {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	o := f.OptionalHeader.(*pe.OptionalHeader64)
	end, at := o.SizeOfHeaders, o.SizeOfHeaders
	for _, s := range f.Sections {
		if s.VirtualAddress < end || s.Offset < at || s.Offset%o.FileAlignment != 0 || s.Size%o.FileAlignment != 0 {
			t.Errorf("%s at %#x, %#x in the file, after %#x, %#x", s.Name, s.VirtualAddress, s.Offset, end, at)
		}
		end, at = s.VirtualAddress+s.VirtualSize, s.Offset+s.Size
	}
	if o.SizeOfImage < end || o.SizeOfImage%o.SectionAlignment != 0 || int(at) != len(image) {
		t.Errorf("image of %#x, sections end at %#x; file of %#x, sections end at %#x", o.SizeOfImage, end, len(image), at)
	}
	if o.DataDirectory[securityDirectory] != (pe.DataDirectory{}) || f.PointerToSymbolTable != 0 {
		t.Error("the stub's signature or symbols are still named")
	}
}

// TestGolden has the digest of an image, which changes only when what is
// written does.
func TestGolden(t *testing.T) {
	i, err := New(parts())
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(read(t, i))); got != "b5d7d0c5fc3232a4a0815353604a3e4169dafb2b320f292af16b6714f9293202" {
		t.Errorf("digest %s", got)
	}
}

func TestSBAT(t *testing.T) {
	p := parts()
	p.SBAT = "sbat,1,SBAT Version,sbat,1,x\nsovereign,1,Sovereign,sovereign-uki,1,example\n"
	i, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	b := read(t, i)
	if got, want := sectionOf(t, b, ".sbat"), "contents of .sbat\nsovereign,1,Sovereign,sovereign-uki,1,example\n"; got != want {
		t.Errorf(".sbat is %q, want %q", got, want)
	}
	p.Stub = inMemory(fake(AMD64, ".text"))
	if i, err = New(p); err != nil {
		t.Fatal(err)
	}
	if got := sectionOf(t, read(t, i), ".sbat"); got != sbatHeader+"sovereign,1,Sovereign,sovereign-uki,1,example\n" {
		t.Errorf(".sbat is %q", got)
	}
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Parts)
		want   string
	}{
		"no kernel":     {func(p *Parts) { p.Linux = nil }, "required"},
		"no EFI stub":   {func(p *Parts) { p.Linux = inMemory(make([]byte, 4096)) }, "the kernel has no EFI stub"},
		"not a stub":    {func(p *Parts) { p.Stub = inMemory([]byte("MZ")) }, "stub: not a PE file"},
		"other machine": {func(p *Parts) { p.Linux = inMemory(fake(ARM64, ".text")) }, "the stub is for amd64, the kernel for arm64"},
		"32 bits": {func(p *Parts) {
			b := fake(AMD64, ".text")
			b[dosSize+coffSize] = 0x0b
			b[dosSize+coffSize+1] = 1
			p.Stub = inMemory(b)
		}, "PE32+"},
		"not EFI":   {func(p *Parts) { b := fake(AMD64, ".text"); b[dosSize+coffSize+68] = 3; p.Stub = inMemory(b) }, "subsystem 3"},
		"cut short": {func(p *Parts) { b := fake(AMD64, ".text"); p.Stub = inMemory(b[:1100]) }, "after the file's end"},
		"no room":   {func(p *Parts) { p.Stub = inMemory(fake(AMD64, strings.Split(strings.Repeat(".x ", 14), " ")...)) }, "room for 17 sections, 20"},
		"two lines": {func(p *Parts) { p.Cmdline = "a\nb" }, "one line"},
		"bad SBAT":  {func(p *Parts) { p.SBAT = "a,b\n" }, "6 fields"},
		"sections overlaid": {func(p *Parts) {
			b := fake(AMD64, ".a", ".b")
			copy(b[dosSize+coffSize+240+20:], []byte{0, 5})
			p.Stub = inMemory(b)
		}, "over each other"},
	} {
		p := parts()
		test.change(&p)
		_, err := New(p)
		if err == nil || !strings.Contains(err.Error(), test.want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestRelease(t *testing.T) {
	b := make([]byte, 1024)
	copy(b[setupMagicAt:], "HdrS")
	binary.LittleEndian.PutUint16(b[setupVersionAt:], 0x100)
	copy(b[0x300:], "6.12.117-sovereign (builder@host) #1")
	if got := Release(bytes.NewReader(b)); got != "6.12.117-sovereign" {
		t.Errorf("release %q", got)
	}
	for _, bad := range [][]byte{nil, make([]byte, 1024), b[:0x300]} {
		if got := Release(bytes.NewReader(bad)); got != "" {
			t.Errorf("release %q", got)
		}
	}
}

// FuzzNew takes any file as a stub and as a kernel.
func FuzzNew(f *testing.F) {
	p := parts()
	f.Add(fake(AMD64, ".text", ".sbat"), fake(AMD64, ".text"))
	f.Add(fake(ARM64, ".text"), fake(ARM64))
	f.Add([]byte("MZ"), []byte{})
	if data, err := os.ReadFile(debianStub); err == nil {
		f.Add(data[:2048], fake(AMD64, ".text"))
	}
	f.Fuzz(func(t *testing.T, stub, linux []byte) {
		Release(bytes.NewReader(linux))
		p.Stub, p.Linux = inMemory(stub), inMemory(linux)
		p.SBAT = "a,1,b,c,d,e\n"
		i, err := New(p)
		if err != nil {
			return
		}
		r, err := i.Open()
		if err != nil {
			t.Fatal(err)
		}
		// A stub may ask for a file of up to 2 GiB of zeros.
		b, err := io.ReadAll(io.LimitReader(r, 64<<10))
		if err != nil {
			t.Fatal(err)
		}
		if i.Size() < 64<<10 {
			again, err := parse(inMemory(b))
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := again.find(".linux"); !ok || again.machine != i.Machine() {
				t.Errorf("the image has %v", again.sections)
			}
		}
	})
}
