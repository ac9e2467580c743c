package rootfs

import (
	"bytes"
	"encoding/hex"
	"io/fs"
	"strings"
	"testing"
)

func TestParseACL(t *testing.T) {
	const plain = "user::rw-,group::r--,other::---"
	for text, want := range map[string]struct {
		hex  string
		perm fs.FileMode
		err  string
	}{
		// The bytes are what setfacl and getfattr -e hex give for each.
		"user::rw-\nuser:1000:rw-\ngroup::r--\nmask::rw-\nother::r--\n": {"0200000001000600ffffffff02000600e803000004000400ffffffff10000600ffffffff20000400ffffffff", 0o664, ""},
		"user::rw-,user:lisa:r-x:502,group::r--,mask::r-x,other::r--":   {"0200000001000600ffffffff02000500f601000004000400ffffffff10000500ffffffff20000400ffffffff", 0o654, ""},
		"o:r--,m:rwx,g:7:x,g::r,u:9:w,u:8:-,u::rwx":                     {"0200000001000700ffffffff0200000008000000020002000900000004000400ffffffff080001000700000010000700ffffffff20000400ffffffff", 0o774, ""},
		"user::rw- # owner\ngroup::r-- #effective:r--\nother::---":      {"0200000001000600ffffffff04000400ffffffff20000000ffffffff", 0o640, ""},
		"user::rw-,user:4294967294:r--,group::r--,mask::r--,other::r--": {"0200000001000600ffffffff02000400feffffff04000400ffffffff10000400ffffffff20000400ffffffff", 0o644, ""},
		"":                                   {"", 0, ""},
		"\n":                                 {"", 0, ""},
		plain + ",user:lisa:r--":             {"", 0, `"lisa" is a name without a number`},
		plain + ",group:wheel:r":             {"", 0, `"wheel" is a name without a number`},
		plain + ",user:lisa:r:x":             {"", 0, `"x" is not the number`},
		plain + ",user:5:r--":                {"", 0, "has no mask"},
		plain + ",user::r--":                 {"", 0, "two entries"},
		plain + ",mask:5:r--":                {"", 0, "mask has no name"},
		plain + ",other::r--:5":              {"", 0, "other has no name"},
		plain + ",user:5:rq-":                {"", 0, `"rq-" is not of r, w, x`},
		plain + ",user:5:":                   {"", 0, "no permissions"},
		plain + ",user:-1:r":                 {"", 0, `"-1" is a name`},
		plain + ",everyone@:r":               {"", 0, "not of the form"},
		plain + ",user:a:r:5:6":              {"", 0, "not of the form"},
		plain + ",thing:5:r":                 {"", 0, `"thing" is not user`},
		plain + ",default:user::r":           {"", 0, `"default" is not user`},
		plain + ",user:4294967295:r,mask::r": {"", 0, "is not the number"},
		plain + ",user:4294967296:r,mask::r": {"", 0, "is a name without a number"},
		"user::rw-,group::r--":               {"", 0, "one entry each"},
		"user:5:r":                           {"", 0, "one entry each"},
		":::":                                {"", 0, "not user"},
	} {
		acl, err := parseACL(text, false)
		switch {
		case want.err != "":
			if err == nil || !strings.Contains(err.Error(), want.err) {
				t.Errorf("%q: %v, want %q", text, err, want.err)
			}
		case err != nil:
			t.Errorf("%q: %v", text, err)
		case want.hex == "":
			if len(acl) != 0 {
				t.Errorf("%q: %v", text, acl)
			}
		default:
			if got := hex.EncodeToString(acl.encode()); got != want.hex || acl.perm() != want.perm {
				t.Errorf("%q:\n%s %o, want\n%s %o", text, got, acl.perm(), want.hex, want.perm)
			}
		}
	}
	a, errA := parseACL("default:user::rwx\ndefault:group::r-x\ndefault:other::---", true)
	b, errB := parseACL("user::rwx,group::r-x,other::---", true)
	if errA != nil || errB != nil || !bytes.Equal(a.encode(), b.encode()) {
		t.Errorf("%v, %v, %v, %v", a, errA, b, errB)
	}
}

// FuzzParseACL: what is taken is an ACL the kernel takes.
func FuzzParseACL(f *testing.F) {
	f.Add("user::rw-\nuser:1000:rw-\ngroup::r--\nmask::rw-\nother::r--\n")
	f.Add("d:u::rwx,g:lisa:r:5,m:x,o:-,g::")
	f.Fuzz(func(t *testing.T, text string) {
		for _, isDefault := range []bool{false, true} {
			acl, err := parseACL(text, isDefault)
			if err != nil || len(acl) == 0 {
				continue
			}
			last := -1
			for _, e := range acl {
				if int(e.tag) < last || e.perm > 7 || (e.id == aclNobody) == (e.tag == aclUser || e.tag == aclGroup) {
					t.Fatalf("%q: %v", text, acl)
				}
				last = int(e.tag)
			}
		}
	})
}
