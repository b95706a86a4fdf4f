// Package page has the pages that a browser shows of a device and of the simulator.
//
// The pages are files of this package: HTML, style sheets and JavaScript modules, used as they are.
// They load nothing from elsewhere. They learn everything from the server that serves them: the
// device's page from GET /status and GET /events of internal/status, the simulator's from its
// control API (docs/control-api.md). That server says who may read and change something; a page has
// no secrets.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed assets
var assets embed.FS

// Policy is the Content-Security-Policy of the pages. Scripts, styles and data come from the page's
// own server, and from nowhere else. Nothing inline runs, and no text becomes a script or markup.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Device serves the page of a device at / and its files below /page/. It answers 404 to other
// paths.
func Device() http.Handler { return serve("device.html") }

// Simulator serves the page of the simulator at / and its files below /page/. It answers 404 to
// other paths.
func Simulator() http.Handler { return serve("simulator.html") }

// file is one file as it is sent.
type file struct {
	content []byte
	media   string
	tag     string // its ETag
}

// serve serves one page, and the files that the pages share.
func serve(index string) http.Handler {
	files := map[string]file{}
	entries, err := fs.ReadDir(assets, "assets")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, e := range entries {
		content, err := assets.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		f := file{content, mediaType(e.Name()), `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
		if e.Name() == index {
			files["/"] = f
		} else if path.Ext(e.Name()) != ".html" {
			files["/page/"+e.Name()] = f
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", Policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		f, found := files[r.URL.Path]
		switch {
		case !found:
			http.Error(w, "there is no such page; the page is at /", http.StatusNotFound)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "the page can only be read", http.StatusMethodNotAllowed)
		default:
			h.Set("Content-Type", f.media)
			h.Set("ETag", f.tag)
			h.Set("Cache-Control", "no-cache") // ask each time: the next version of the program has other files
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
		}
	})
}

// mediaType returns the type of a file. It does not ask the system, whose tables may be wrong.
func mediaType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".html":
		return "text/html; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		return strings.TrimSpace(mime.TypeByExtension(ext))
	}
}
