package forge

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browser is Debian's Chromium, without a window.
type browser struct {
	ctx context.Context
	m   *machine
}

func newBrowser(t *testing.T, m *machine) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("/usr/bin/chromium"), chromedp.NoSandbox, chromedp.WindowSize(1280, 1000), chromedp.UserDataDir(t.TempDir()))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return &browser{ctx, m}
}

// step is something that is done or seen on a page.
type step struct {
	what string
	do   chromedp.Action[chromedp.Void]
}

// write types into a field in place of what is there.
func write(selector, words string) step {
	// What is selected is replaced by what is typed.
	return step{"write into " + selector, chromedp.Steps(
		chromedp.WaitVisible(chromedp.CSS(selector)),
		until(`(selector) => { const e = document.querySelector(selector); e.focus(); e.select(); return true; }`, selector),
		chromedp.SendKeys(chromedp.CSS(selector), words),
	)}
}

func press(selector string) step {
	return step{"press " + selector, chromedp.Steps(
		chromedp.ScrollIntoView(chromedp.CSS(selector)),
		chromedp.Click(chromedp.CSS(selector)),
	)}
}

// text waits until an element with the selector shows the words.
func text(selector, words string) step {
	return step{"see " + words + " in " + selector, until(`(selector, words) => [...document.querySelectorAll(selector)].some(
		(e) => e.innerText.replace(/\s+/g, " ").includes(words))`, selector, words)}
}

// until waits until a function of the page says true. While one page makes room
// for the next it cannot be asked, which is no answer.
func until(function string, args ...string) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
		quoted, err := json.Marshal(args)
		if err != nil {
			return none, err
		}
		ask := chromedp.Evaluate[bool]("(" + function + ")(..." + string(quoted) + ")")
		for {
			var so bool
			if so, err = ask(ctx, t); so {
				return none, nil
			}
			select {
			case <-ctx.Done():
				return none, errors.Join(ctx.Err(), err)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

// page opens a path and takes the steps; a picture is made at the end.
func (b *browser) page(t *testing.T, path, name string, steps ...step) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	err := chromedp.Do(ctx, chromedp.Navigate("http://"+b.m.web+path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for _, s := range steps {
		if err = chromedp.Do(ctx, s.do); err != nil {
			b.picture(t, name+" failed")
			shown, serr := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
			t.Fatalf("%s: %s: %v\nthe page (%v): %s", name, s.what, err, serr, shown)
		}
	}
	b.picture(t, name)
}

// picture keeps what the page looks like, for people.
func (b *browser) picture(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv("SOVEREIGN_FORGE_SHOTS")
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Errorf("picture of %s: %v", name, err)
		return
	}
	if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".png"), png, 0o644); err != nil {
		t.Error(err)
	}
}
