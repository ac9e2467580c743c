package apk

import (
	"strings"
	"testing"
)

func TestCompareVersions(t *testing.T) {
	// The comparisons that tell an implementation of apk's order from others.
	for line := range strings.Lines(`
		1.2.3_rc1-r0 < 1.2.3-r0
		1.0_rc1 < 1.0
		1.0_p1 > 1.0
		1.0_p10-r0 > 1.0_p9-r0
		0.1.0_alpha_pre2 < 0.1.0_alpha
		0.1.0_alpha2 > 0.1.0_alpha
		1.1 > 1.1_alpha1
		1.3_alpha < 1.3_alpha2
		1.0_alpha < 1.0_beta
		1.0_beta < 1.0_pre
		1.0_pre < 1.0_rc
		1.0_cvs < 1.0_svn
		1.0_git < 1.0_p
		2.3.0b-r1 < 2.3.0b-r2
		1.6d > 1.6
		1.7 < 1.7b
		6b-r7 > 1.12-r7
		2.12r-r4 < 2.12r-r5
		1.06-r6 < 006
		2.02.06 < 2.02.10
		1.2.07.8 < 1.2.12.04
		1.07.5 > 1.07
		4.5.14 > 4.09-r1
		02.08.01b < 4.77
		021109-r3 < 20060512
		1.2.9.1-r1 > 1.2.9.1
		0.9.28.1 > 0.9.28-r2
		1.3-r0 < 1.3.1-r0
		1.3_pre1-r1 < 1.3.2
		1.0.0_pre20191002222144-r0 < 1.0.0_pre20210530193627-r0
		17.12-r0 > 17.4-r3
		1.02 < 1.1
		10 > 9
		3.0.24 = 3.0.24
		76.1 = 76.1
		0 = 0
		1.0~ab12 < 1.0~ab13
		1.0_p1~ab12-r0 > 1.0-r9
		1.0~ab12 > 1.0
		1.0~ab12-r1 < 1.0~ab12-r2
		1.0_hg > 1.0_git
		1.0_p2 > 1.0_hg20
		1.0_rc1_p1 < 1.0
		1.0_rc1_git20240101 > 1.0_rc1
		1.0a_rc1 < 1.0a
		1.0a_rc1 > 1.0
	`) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		want := map[string]int{"<": -1, "=": 0, ">": 1}[f[1]]
		if got := CompareVersions(f[0], f[2]); got != want {
			t.Errorf("%s %s %s: got %d", f[0], f[1], f[2], got)
		}
		if got := CompareVersions(f[2], f[0]); got != -want {
			t.Errorf("%s and %s the other way round: got %d", f[2], f[0], got)
		}
		for _, v := range []string{f[0], f[2]} {
			if !ValidVersion(v) {
				t.Errorf("%s is not valid", v)
			}
		}
	}
}

func TestInvalidVersions(t *testing.T) {
	for _, v := range []string{"", "a", "1.", ".1", "1..2", "1-r", "1_foo", "1.2bc", "1-rc1", "1.2-r1.2", "1 ", "v1", "1_", "1-1", "1:2", "1.1234567890123456789", "1-r0-r1", "1é", "1~", "1~g", "1~AB", "1-r0~ab", "1~ab~cd", "1~ab_p1", "1_rc1a", "1ab",
		"0.1a1", "0.1bc1", "0.1a.1", "1a0-r0", "0.1_pre2~", "0.1_pre2~1234xbcd", "0.1_pre2-r1~1234", "0.1-pre1.1", "0.1_p3-r2_pre1", "_pre1", "-r1", "0.1_-r0", "0.1__alpha", "0.1_1_alpha"} {
		if ValidVersion(v) {
			t.Errorf("%q is valid", v)
		}
		CompareVersions(v, "1.2") // must end
	}
}

func TestDependencies(t *testing.T) {
	for _, c := range []struct{ dep, version, ok string }{
		{"zlib", "1.3", "yes"},
		{"zlib", "", "yes"},
		{"zlib>=1.3", "1.3-r0", "yes"},
		{"zlib>=1.3", "1.2.13-r5", "no"},
		{"zlib>1.3", "1.3", "no"},
		{"zlib<2", "1.9", "yes"},
		{"zlib<=2", "2", "yes"},
		{"zlib=1.3.1-r0", "1.3.1-r0", "yes"},
		{"zlib=1.3.1", "1.3.1-r0", "no"},
		{"zlib~1.3", "1.3.1-r7", "yes"},
		{"zlib~1.3", "1.30", "no"},
		{"zlib~=1.3", "1.3", "yes"},
		{"zlib~1.3", "1", "no"},
		{"so:libz.so.1", "1.3.1", "yes"},
		{"so:libz.so.1=1.3", "", "no"},
		{"!zlib<1", "0.9", "yes"},
		{"zlib>~1.3", "1.3.1-r7", "yes"},
		{"zlib>~1.3", "1.2.9", "no"},
		{"zlib<~1.3", "1.3.1-r7", "yes"},
		{"zlib<~1.3", "1.4", "no"},
		{"zlib~1.3_rc", "1.3_rc1", "yes"},
		{"zlib~1.3.1", "1.3.1_p2-r0", "yes"},
		{"zlib~1.3.1~ab12", "1.3.1~ab12-r3", "yes"},
		{"zlib=1.3@edge", "1.3", "yes"},
		{"zlib><Q1jvvTDv4rqH0Txs4oUyj1bhgmJec=", "1.3", "no"},
	} {
		d, err := ParseDependency(c.dep)
		if err != nil {
			t.Errorf("%s: %v", c.dep, err)
			continue
		}
		if got := d.Matches(c.version); got != (c.ok == "yes") {
			t.Errorf("%s with version %q: %v", c.dep, c.version, got)
		}
	}
	for _, bad := range []string{"", "!", "zlib>", "zlib=x", "zlib==1", "zlib><1", "zlib><Q1", "zlib@", "@edge", "!zlib@edge", "zlib@a@b", "a b", "zlib~>1", "a\nb", "!!a", strings.Repeat("a", 2000)} {
		if d, err := ParseDependency(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, d)
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1.2.3_rc1-r0", "1.2.3")
	f.Add("0.1.0_alpha_pre2", "006")
	f.Add("1.0bc", "1..")
	f.Fuzz(func(t *testing.T, a, b string) {
		if CompareVersions(a, b) != -CompareVersions(b, a) {
			t.Errorf("%q and %q compare the same both ways", a, b)
		}
		if c := CompareVersions(a, a); c != 0 {
			t.Errorf("%q differs from itself", a)
		}
	})
}

func FuzzParseDependency(f *testing.F) {
	for _, s := range []string{"zlib>=1.3", "!foo~2", "so:libz.so.1", "cmd:[", "a=1=2", "a@edge", "a>~1_p1~ab-r2@x", "a><Q1jvvTDv4rqH0Txs4oUyj1bhgmJec="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDependency(s)
		if err != nil {
			return
		}
		again, err := ParseDependency(d.String())
		if err != nil || again != d {
			t.Errorf("%q became %q, which reads as %+v, %v", s, d, again, err)
		}
	})
}
