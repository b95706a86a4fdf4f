package page_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/page"
)

// pages are the handlers, by the name of their page.
var pages = map[string]http.Handler{"device": page.Device(), "simulator": page.Simulator()}

// ask asks a page's handler.
func ask(h http.Handler, method, path string, header map[string]string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// TestEveryAnswerHasThePolicy asks for all that there is and for what there is not. No answer may
// lack the policy, and files have their types and tags.
func TestEveryAnswerHasThePolicy(t *testing.T) {
	assets, err := os.ReadDir("assets")
	if err != nil || len(assets) < 5 {
		t.Fatal(assets, err)
	}
	for name, h := range pages {
		paths := map[string]int{"/": 200, "/page/": 404, "/page/simulator.html": 404, "/page/device.html": 404, "/page/../page.go": 404, "/nothing": 404, "/page/style.css/": 404}
		for _, a := range assets {
			if filepath.Ext(a.Name()) != ".html" {
				paths["/page/"+a.Name()] = 200
			}
		}
		for path, want := range paths {
			a := ask(h, http.MethodGet, path, nil)
			body, _ := io.ReadAll(a.Body)
			if a.StatusCode != want || a.Header.Get("Content-Security-Policy") != page.Policy || a.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s %s: %d %v", name, path, a.StatusCode, a.Header)
			}
			if want != 200 {
				continue
			}
			if a.Header.Get("ETag") == "" || !strings.Contains(a.Header.Get("Content-Type"), map[string]string{
				"": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
			}[filepath.Ext(path)]) {
				t.Errorf("%s %s: %v", name, path, a.Header)
			}
			again := ask(h, http.MethodGet, path, map[string]string{"If-None-Match": a.Header.Get("ETag")})
			head := ask(h, http.MethodHead, path, nil)
			if again.StatusCode != http.StatusNotModified || head.StatusCode != 200 || head.ContentLength > 0 && int(head.ContentLength) != len(body) {
				t.Errorf("%s %s: unchanged %d, HEAD %d", name, path, again.StatusCode, head.StatusCode)
			}
		}
		if a := ask(h, http.MethodPost, "/", nil); a.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: POST is answered %d", name, a.StatusCode)
		}
	}
}

// TestPagesAreWholeAndSafe reads the files: nothing inline, nothing from elsewhere, no way from
// text to markup, every file that is named exists, and every file is used.
func TestPagesAreWholeAndSafe(t *testing.T) {
	files, _ := filepath.Glob("assets/*")
	used := map[string]bool{}
	reference := regexp.MustCompile(`(?:src|href)="(/page/[^"]+)"|from "\./([^"]+)"`)
	forbidden := regexp.MustCompile(`(?i)https?://|\sstyle=|<style|\son[a-z]+=|javascript:|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|@import|url\(|<script[^>]*>[^<]`)
	allowed := "http://www.w3.org/2000/svg" // the name of a language, from which nothing is loaded
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if found := forbidden.FindString(strings.ReplaceAll(string(content), allowed, "")); found != "" {
			t.Errorf("%s has %q", file, found)
		}
		for _, m := range reference.FindAllStringSubmatch(string(content), -1) {
			name := strings.TrimPrefix(m[1], "/page/") + m[2]
			used[name] = true
			if _, err := os.Stat(filepath.Join("assets", name)); err != nil {
				t.Errorf("%s names %s: %v", file, name, err)
			}
		}
	}
	for _, file := range files {
		if name := filepath.Base(file); filepath.Ext(name) != ".html" && !used[name] {
			t.Errorf("nobody uses %s", name)
		}
	}
}
