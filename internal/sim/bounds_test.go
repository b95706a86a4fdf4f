package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
)

// One reader more than the limit is refused with a reason, and is accepted when another reader has
// left.
func TestOneReaderOfEventsTooManyIsRefused(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		h := w.httpClient()
		defer h.CloseIdleConnections()
		open := func() *http.Response {
			req, err := http.NewRequestWithContext(w.t.Context(), "GET", w.info.Control+"/api/events", nil)
			must(t, err)
			res, err := h.Do(req)
			must(t, err)
			return res
		}
		var readers []*http.Response
		for range maxReaders {
			readers = append(readers, open())
		}
		for range 3 * maxReaders {
			res := open()
			var body struct{ Error, Code string }
			must(t, json.NewDecoder(res.Body).Decode(&body))
			_ = res.Body.Close()
			if res.StatusCode != 503 || body.Code != "TooManyReaders" || !strings.Contains(body.Error, "close one of them") || !res.Close {
				t.Fatalf("%d %+v", res.StatusCode, body)
			}
		}
		if n := len(w.events.watchers); n != maxReaders {
			t.Errorf("%d watchers", n)
		}
		for _, r := range readers[1:] {
			_ = r.Body.Close()
		}
		synctest.Wait()
		res := open()
		if res.StatusCode != 200 || w.events.readers != 2 {
			t.Errorf("%d, %d readers", res.StatusCode, w.events.readers)
		}
		_ = res.Body.Close()
		_ = readers[0].Body.Close()
	})
}

// A reader that is too slow learns how many events it has missed. Its memory does not grow with
// them.
func TestSlowReaderLearnsHowManyEventsItMissed(t *testing.T) {
	b := &broadcaster{}
	events, leave := b.watch()
	defer leave()
	const extra = 500
	for range watcherBuffer + extra {
		b.emit(iothub.Event{Kind: iothub.EventConnect, Device: strings.Repeat("x", 1<<16), Reason: strings.Repeat("y", 1<<16)})
	}
	if len(events) != watcherBuffer {
		t.Fatalf("%d events wait", len(events))
	}
	for range 2 {
		e := <-events
		if len(e.Device)+len(e.Reason) > 3*256 {
			t.Errorf("an event of %d bytes", len(e.Device)+len(e.Reason))
		}
	}
	b.emit(iothub.Event{Kind: iothub.EventMove})
	var last []iothub.Event
	for len(events) > 0 {
		last = append(last, <-events)
	}
	last = last[len(last)-2:]
	if last[0].Kind != iothub.EventMissed || last[0].Count != extra || last[1].Kind != iothub.EventMove {
		t.Errorf("%+v", last)
	}
}

// heap is what is in use, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A thousand large messages that are settled, and thousands of registrations under way with the
// longest tokens, keep only what is still needed.
func TestSettledMailAndRegistrationsKeepLittle(t *testing.T) {
	inWorld(t, func(c *Config) { c.Polls = 1_000_000 }, func(w *world) {
		w.provisionQuietly("d")
		i := w.hubs[0].Identity("d")
		before := heap()
		text := strings.Repeat("x", 30_000)
		for range 1000 {
			_, err := i.Post(iothub.C2D{Text: &text, Properties: map[string]string{"bulk": text}})
			must(t, err)
			_, err = i.Purge()
			must(t, err)
		}
		if grown := heap() - before; grown > 2<<20 {
			t.Errorf("a thousand messages that are over cost %d bytes", grown)
		}
		if _, err := w.SendC2D("d", iothub.C2D{Text: &text, Properties: map[string]string{"$.mid": strings.Repeat("m", 129)}}); refusal(err) != "400 BadRequest" {
			t.Errorf("%v", err)
		}
		client := w.httpClient()
		defer client.CloseIdleConnections()
		before = heap()
		const n = 2000
		for range n {
			token := sasFor(w.key("d"), w.info.IDScope+"/registrations/d", time.Now().Add(time.Hour), "registration") + "&pad=" + strings.Repeat("x", 3000)
			a := w.mustDo(client, "PUT", "https://"+w.info.DPS.HTTPS+"/"+w.info.IDScope+"/registrations/d/register?api-version=2021-06-01", "{}", "Authorization", token)
			if a.status != 202 {
				t.Fatalf("%+v", a)
			}
		}
		if grown := heap() - before; grown > n*1024 {
			t.Errorf("%d registrations under way cost %d bytes", n, grown)
		}
	})
}

// provisionQuietly puts a device into hub-a without polling.
func (w *world) provisionQuietly(id string) {
	w.t.Helper()
	must(w.t, w.hubs[0].Admit(id, azure.Credentials{Keys: [][]byte{w.key(id)}}, nil, true))
}

// The ledger's messages are decoded one by one while they are sent, so showing all of them needs
// little memory.
func TestLedgerIsShownWithoutMemoryForAllOfIt(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.provisionQuietly("d")
		const n, size = 2000, 10_000
		for i := range n {
			must(t, w.enterMessage("hub-a", "d", `"`+strings.Repeat("x", size)+`"`, i))
		}
		h := w.httpClient()
		defer h.CloseIdleConnections()
		before := heap()
		req, err := http.NewRequestWithContext(w.t.Context(), "GET", w.info.Control+"/api/ledger?device=d&messages=1", nil)
		must(t, err)
		res, err := h.Do(req)
		must(t, err)
		in := bufio.NewReader(res.Body)
		_, err = in.Peek(1)
		must(t, err)
		synctest.Wait() // the answer is as far as the connection takes it
		if grown := heap() - before; grown > n*size/4 {
			t.Errorf("an answer of %d bytes that nobody reads costs %d", n*size, grown)
		}
		var l struct {
			Received int64
			Messages []struct {
				Properties map[string]string
				Body       string
			}
		}
		must(t, json.NewDecoder(in).Decode(&l))
		_ = res.Body.Close()
		if l.Received != n || len(l.Messages) != n || len(l.Messages[n-1].Body) != size || l.Messages[n-1].Properties["n"] != fmt.Sprint(n-1) {
			t.Errorf("%d %d", l.Received, len(l.Messages))
		}
	})
}
