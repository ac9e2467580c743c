package machinefile

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/backup/image"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// taken is a Sink in memory.
type taken struct {
	head  Head
	files map[string]string
	data  []byte
	fail  error
}

func (t *taken) Head(h Head) error {
	if h.Size > 64<<20 {
		return errors.New("too large for a test")
	}
	t.head, t.files, t.data = h, map[string]string{}, make([]byte, h.Size)
	return t.fail
}

func (t *taken) File(name string, _ int64, r io.Reader) error {
	b, err := io.ReadAll(r)
	t.files[name] = string(b)
	return err
}

func (t *taken) Data(off int64, b []byte) error { copy(t.data[off:], b); return nil }

func disk(t testing.TB) (*image.Image, []byte) {
	data := make([]byte, 9<<20+1000)
	random := rand.New(rand.NewPCG(1, 2))
	for _, at := range []int{0, 70 << 10, 5 << 20, len(data) - 100} {
		for n := range min(200<<10, len(data)-at) {
			data[at+n] = byte(random.Uint32())
		}
	}
	i, err := image.Open(bytes.NewReader(data), nil, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return i, data
}

func write(t testing.TB, end error) ([]byte, []byte) {
	i, data := disk(t)
	var b bytes.Buffer
	w, err := NewWriter(&b, Head{Name: "sql", Size: i.Size(), Machine: []byte(`{"x":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range [][2]string{{"manifest.json", "{}"}, {"root.img", strings.Repeat("root", 10000)}} {
		if err := w.File(f[0], int64(len(f[1])), strings.NewReader(f[1])); err != nil {
			t.Fatal(err)
		}
	}
	moved := int64(0)
	if err := w.Image(t.Context(), i, func(n int64) { moved += n }); err != nil || moved != i.Size() {
		t.Fatalf("%d bytes, %v", moved, err)
	}
	if err := w.Close(end); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), data
}

func TestRoundTrip(t *testing.T) {
	b, data := write(t, nil)
	var got taken
	if err := Read(bytes.NewReader(b), &got); err != nil {
		t.Fatal(err)
	}
	if got.head.Name != "sql" || !strings.Contains(string(got.head.Machine), `"x"`) || got.files["manifest.json"] != "{}" || len(got.files["root.img"]) != 40000 || !bytes.Equal(got.data, data) {
		t.Fatalf("%+v: %d files, data equal: %v", got.head, len(got.files), bytes.Equal(got.data, data))
	}
	if len(b) > len(data)/4 {
		t.Errorf("%d bytes, of which most are zero, became %d", len(data), len(b))
	}
}

// TestDamage changes and cuts a file everywhere: what is read is whole, or an
// error.
func TestDamage(t *testing.T) {
	b, _ := write(t, nil)
	step := len(b)/150 + 1
	for at := 0; at < len(b); at += step {
		changed := bytes.Clone(b)
		changed[at] ^= 0x10
		if err := Read(bytes.NewReader(changed), &taken{}); err == nil {
			t.Errorf("byte %d of %d is another, and nobody saw", at, len(b))
		}
		if err := Read(bytes.NewReader(b[:at]), &taken{}); fault.ClassOf(err) != fault.Verification {
			t.Errorf("cut at %d of %d: %v", at, len(b), err)
		}
	}
}

func TestFailure(t *testing.T) {
	b, _ := write(t, fault.Errorf(fault.Environment, "no room").Hintf("make some"))
	err := Read(bytes.NewReader(b), &taken{})
	if fault.ClassOf(err) != fault.Environment || err.Error() != "no room" || fault.HintOf(err) != "make some" {
		t.Errorf("%v, %v", err, fault.HintOf(err))
	}
	b, _ = write(t, nil)
	mine := errors.New("the sink is full")
	if err := Read(bytes.NewReader(b), &taken{fail: mine}); !errors.Is(err, mine) {
		t.Errorf("%v", err)
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	w, err := NewWriter(&b, Head{Name: "sql", Size: 1 << 20, Machine: []byte(`{}`)})
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(w.File("manifest.json", 2, strings.NewReader("{}")), w.Close(nil)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(_ *testing.T, b []byte) { Read(bytes.NewReader(b), &taken{}) }) //nolint:errcheck // it must not panic
}
