package page_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// browsers are the names under which systems know the browser of these tests. On Debian it is
// installed with: apt-get install -y chromium.
var browsers = []string{"chromium", "chromium-browser", "google-chrome"}

// limit is how long a page may take for anything. Tests wait for states of the page, and so end as
// soon as they are there.
const limit = 3 * time.Minute

// browser is the one browser of all tests. It is nil until the first test needs it.
var browser struct {
	once  sync.Once
	ctx   context.Context
	stop  []context.CancelFunc
	fault error
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, stop := range slices.Backward(browser.stop) {
		stop()
	}
	os.Exit(code)
}

func startBrowser() {
	path := ""
	for _, name := range browsers {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		browser.fault = fmt.Errorf("there is none of %s; install it with: apt-get install -y chromium", strings.Join(browsers, ", "))
		return
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it refuses to run as root with one
	}
	alloc, stopAlloc := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(alloc, chromedp.WithErrorf(func(string, ...any) {})) // it names events that it does not know yet
	browser.ctx, browser.stop = ctx, []context.CancelFunc{stopAlloc, stop}
	browser.fault = chromedp.Do(ctx, chromedp.Navigate("about:blank"))
}

// look is how a page is looked at.
type look struct {
	width, height int64
	dark          bool
	still         bool // the person wants no motion
	phone         bool
}

var desktop = look{width: 1280, height: 900}

// tab is one page in the browser. It fails the test if a script of the page fails, or if the page
// does what its policy forbids.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	faults []string
	away   bool // the server is away on purpose, so requests may fail
}

// openPage opens a page. The test is skipped if there is no browser, except where CI is true.
func openPage(t *testing.T, url string, how look) *tab {
	t.Helper()
	browser.once.Do(startBrowser)
	if browser.fault != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(browser.fault)
		}
		t.Skipf("no browser: %v", browser.fault)
	}
	ctx, cancel := chromedp.NewContext(browser.ctx)
	b := &tab{t: t, ctx: ctx}
	console := chromedp.Console(ctx)
	listening := sync.WaitGroup{}
	listening.Go(func() {
		for m, err := range console {
			if err != nil {
				return
			}
			b.mu.Lock()
			away := b.away && m.Source == "network"
			b.mu.Unlock()
			if (m.IsException() || m.Type == "error" || m.Type == "warning") && !away {
				b.fault("%s %s %s:%d", m.Type, m, m.URL, m.Line+1)
			}
		}
	})
	if err := chromedp.Listen(ctx, func(event any) {
		if e, ok := event.(*cdpage.EventJavascriptDialogOpening); ok {
			b.fault("a dialog says %q", e.Message)
		}
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		listening.Wait()
		for _, fault := range b.faults {
			t.Errorf("the page: %s", fault)
		}
	})
	scheme, motion := "light", "no-preference"
	if how.dark {
		scheme = "dark"
	}
	if how.still {
		motion = "reduce"
	}
	view := []chromedp.EmulateViewportOption{}
	if how.phone {
		view = append(view, chromedp.EmulateMobile, chromedp.EmulatePortrait)
	}
	b.do(
		chromedp.EmulateViewport(how.width, how.height, view...),
		chromedp.Func(func(ctx context.Context, s *chromedp.Target) error {
			_, err := cdp.Call(ctx, s, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
				{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: motion},
			}})
			return err
		}),
		chromedp.Navigate(url),
	)
	return b
}

func (b *tab) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

// serverAway says whether requests of the page may fail.
func (b *tab) serverAway(away bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = away
}

// do runs actions.
func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatalf("the browser: %v", err)
	}
}

// value evaluates an expression in the page, a promise too, and returns its value.
func value[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits until an expression is true. The page looks at it before each frame.
func (b *tab) until(expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Evaluate[bool](fmt.Sprintf(`new Promise((done) => {
		const look = () => { if (%s) done(true); else requestAnimationFrame(look); };
		look();
	})`, expression), chromedp.EvalAwaitPromise))
	if err != nil {
		seen, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText`))
		b.t.Fatalf("%s does not become true: %v\n%s", expression, err, seen)
	}
}

// reaches goes to a page, and reports whether its server answers.
func (b *tab) reaches(url string) bool {
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	return chromedp.Do(ctx, chromedp.Navigate(url)) == nil
}

// reload loads the page again.
var reload = chromedp.Reload()

// click clicks the middle of what a selector finds, as a mouse does.
func (b *tab) click(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector)))
}

// keys presses keys.
func (b *tab) keys(keys string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(keys))
}

// text returns the text of what a selector finds.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return value[string](b, fmt.Sprintf(`document.querySelector(%s).textContent`, quoted(selector)))
}

// picture writes a picture of the whole page if PAGE_PICTURES names a directory.
func (b *tab) picture(name string) {
	b.t.Helper()
	b.write(name, chromedp.FullScreenshot(100))
}

// pictureOf writes a picture of one element.
func (b *tab) pictureOf(name, selector string) {
	b.t.Helper()
	b.write(name, chromedp.Screenshot(chromedp.CSS(selector)))
}

func (b *tab) write(name string, take chromedp.Action[[]byte]) {
	b.t.Helper()
	dir := os.Getenv("PAGE_PICTURES")
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	png, err := chromedp.Run(ctx, take)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// quoted returns a text as a literal of JavaScript.
func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}
