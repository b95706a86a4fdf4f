package page_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/page"
)

// markups are texts that would run a script if they became markup. Each sets window.hacked.
var markups = []string{
	`<img src=x onerror="window.hacked=1;alert(1)">`,
	`"><script>window.hacked=1;alert(2)</script>`,
	`</title><svg onload="window.hacked=1">`,
	`javascript:window.hacked=1`,
	`'-alert(3)-'{{constructor.constructor('window.hacked=1')()}}`,
	`__proto__`,
	`constructor`,
}

// hostileCloud serves the simulator's page over a control API whose every text is markup. A real
// simulator refuses such ids, but its page must not rely on that.
func hostileCloud(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", page.Simulator())
	mux.Handle("GET /page/", page.Simulator())
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	type object = map[string]any
	var devices []object
	for _, m := range markups {
		devices = append(devices, object{"id": m, "assignedHub": markups[1], "connectedHub": markups[0], "enabled": false, "blocked": true, "approved": false, "modelId": m})
	}
	mux.Handle("GET /api/state", answer(object{
		"dps": object{"fault": markups[2]},
		"hubs": []object{
			{"name": markups[0], "host": markups[1], "fault": markups[2], "connections": 1},
			{"name": markups[1], "host": markups[1], "fault": nil, "connections": 0},
		},
		"devices": devices, "totals": object{},
	}))
	mux.Handle("GET /api/ledger", answer(object{"received": 1, "duplicates": 0, "reordered": 0, "missing": 0, "hubs": object{markups[0]: 1}, "lastAt": markups[0], "maxGapMs": 1}))
	mux.Handle("GET /api/devices/{id}/twin", answer(object{"desired": object{markups[0]: markups[1]}, "reported": object{markups[1]: markups[0]}}))
	mux.HandleFunc("POST /", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		answer(object{"error": markups[0]})(w, nil)
	})
	mux.HandleFunc("GET /api/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, kind := range []string{"connect", "disconnect", "refuse", "register", "move", "fault", "heal", "missed", "unheard-of"} {
			for _, m := range markups {
				text, _ := json.Marshal(object{"at": m, "kind": kind, "hub": m, "device": m, "reason": m, "count": 1})
				_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, text)
			}
		}
		_, _ = fmt.Fprintf(w, "event: connect\ndata: no JSON\n\nevent: connect\ndata: null\n\ndata: 7\n\n: a comment\n\nnonsense\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s
}

// TestMarkupFromOutsideStaysText shows the page texts that would be scripts, in every place where a
// text comes from outside. They are shown as they are, and nothing runs.
func TestMarkupFromOutsideStaysText(t *testing.T) {
	b := openPage(t, hostileCloud(t).URL+"/", desktop)
	b.until(`document.querySelectorAll("#rows tr:not([hidden])").length === 7`)
	b.until(`document.querySelectorAll("#events li").length > 30`)
	b.click(`[data-id^="<img"] button`)
	b.until(`!document.querySelector("#device-body").hidden`)
	b.click("#twin summary")
	b.until(`document.querySelector("#twin-text").textContent.includes("onerror")`)
	b.serverAway(true) // the refusal is logged as a failed request
	b.click("[data-hub] .heal, [data-hub] .attack")
	b.until(`!document.querySelector("#refused").hidden`)
	b.harmless("#refused", "#device-title", "#device-where", "#device-facts", "#rows", "#events", "#hubs", "#verdict-more", "#dps-badge", "#keys")
}

// harmless checks that nothing has run, and that each of the elements shows a text with markup.
func (b *tab) harmless(selectors ...string) {
	b.t.Helper()
	if value[bool](b, `"hacked" in window`) {
		b.t.Error("a script from outside has run")
	}
	if n := value[int](b, `document.querySelectorAll("body img:not([src^='/page/']), body script, [onerror], [onload], iframe, object, embed, a[href^='javascript']").length`); n != 0 {
		b.t.Errorf("%d elements came from texts", n)
	}
	for _, s := range selectors {
		if !value[bool](b, fmt.Sprintf(`[...document.querySelectorAll(%s)].some((n) => /<img src=x|<script>|<svg onload|javascript:/.test(n.textContent))`, quoted(s))) {
			b.t.Errorf("%s does not show the text: %s", s, b.text(s))
		}
	}
}
