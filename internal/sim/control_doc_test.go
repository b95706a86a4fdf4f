package sim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// documentedRoute is a section of docs/control-api.md.
type documentedRoute struct {
	name, section      string
	method, path, body string // of the example
	stream             bool
	answer             string // in JSON; "" is a 204
}

var (
	routeHeading = regexp.MustCompile("(?m)^### `([A-Z]+ \\S+)`$")
	example      = regexp.MustCompile("(?s)```sh\ncurl (-N )?(?:-X ([A-Z]+) )?\"\\$control([^\"]+)\"(?: -d '([^\n]*)')?\n```")
	documented   = regexp.MustCompile("(?s)```json\n(.*?)```")
)

func documentedRoutes(t *testing.T) (routes []documentedRoute, doc string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/control-api.md")
	must(t, err)
	doc = string(text)
	heads := routeHeading.FindAllStringSubmatchIndex(doc, -1)
	for i, h := range heads {
		end := len(doc)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		r := documentedRoute{name: doc[h[2]:h[3]], section: doc[h[1]:end]}
		e := example.FindStringSubmatch(r.section)
		if e == nil {
			t.Errorf("%s has no example", r.name)
			continue
		}
		r.stream, r.method, r.path, r.body = e[1] != "", e[2], e[3], e[4]
		if r.method == "" {
			r.method = "GET"
		}
		if a := documented.FindStringSubmatch(r.section); a != nil {
			r.answer = a[1]
		}
		routes = append(routes, r)
	}
	return routes, doc
}

// shape is a JSON value without its values: the names there are, those of an array's first element.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		s := map[string]any{}
		for name, child := range v {
			s[name] = shape(child)
		}
		return s
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		return []any{shape(v[0])}
	}
	return nil
}

// docs/control-api.md says what the code does: every route has a section and every
// section is a route, GET /api lists the same, every field is named, and every example is answered
// as it says there.
func TestControlDocumentMatchesTheRoutes(t *testing.T) {
	routes, doc := documentedRoutes(t)
	var names []string
	for _, r := range routes {
		names = append(names, r.name)
	}
	inWorld(t, nil, func(w *world) {
		var there []string
		for _, r := range w.controlRoutes() {
			there = append(there, r.Method+" "+r.Path)
		}
		if !slices.Equal(names, there) {
			t.Errorf("described are\n%s\nthere are\n%s", strings.Join(names, "\n"), strings.Join(there, "\n"))
		}
		h := w.httpClient()
		defer h.CloseIdleConnections()
		var listed []string
		for _, r := range w.mustDo(h, "GET", w.info.Control+"/api", "").body["routes"].([]any) {
			route := r.(map[string]any)
			listed = append(listed, fmt.Sprint(route["method"], " ", route["path"]))
			if route["about"] == "" {
				t.Errorf("%v says nothing about itself", route)
			}
		}
		if !slices.Equal(listed, there) {
			t.Errorf("listed are\n%s\nthere are\n%s", strings.Join(listed, "\n"), strings.Join(there, "\n"))
		}
	})
	for _, v := range []any{iothub.Fault{}, provisioning.DPSFault{}, iothub.C2D{}, iothub.C2DMessage{}, iothub.Event{}, Ledger{}, Message{}, State{}, DPSState{}, HubState{}, DeviceState{}, Totals{},
		iothub.Twin{}, iothub.MethodResult{}, failoverBody{}, disableBody{}, controlRoute{}} {
		for _, name := range azure.JSONFields(reflect.TypeOf(v)) {
			if !strings.Contains(doc, `"`+name+`"`) && !strings.Contains(doc, "`"+name+"`") {
				t.Errorf("%T has a field %q that is not described", v, name)
			}
		}
	}
	for _, word := range []string{
		iothub.EventConnect, iothub.EventDisconnect, iothub.EventRefuse, iothub.EventRegister, iothub.EventTelemetry, iothub.EventFault, iothub.EventHeal, iothub.EventMove, iothub.EventOperator, iothub.EventMissed,
		iothub.FaultKill, iothub.FaultBlackhole, iothub.FaultSYNDrop, iothub.FaultConnack3, iothub.FaultConnack5, iothub.FaultClose, iothub.FaultSlow, iothub.FaultDropPuback, iothub.FaultThrottle,
		provisioning.DPSDown, provisioning.DPSBlackhole, provisioning.DPSDrop, provisioning.DPSThrottle, provisioning.DPSError500, provisioning.DPSStuck, provisioning.DPSSlow, provisioning.DPSUnauthorized, provisioning.DPSStray, iothub.WaitingAnswer, iothub.WaitingReset,
		iothub.C2DEnqueued, iothub.C2DDelivered, iothub.C2DCompleted, iothub.C2DExpired, iothub.C2DPurged, iothub.C2DDeadLettered,
	} {
		if !strings.Contains(doc, "`"+word+"`") {
			t.Errorf("%s is not described", word)
		}
	}
	for _, r := range routes {
		inWorld(t, func(c *Config) { c.Polls = 1 }, func(w *world) { w.runExample(r) })
	}
}

// runExample runs the example of a section in a cloud with a device that is connected and has had
// some traffic.
func (w *world) runExample(r documentedRoute) {
	t := w.t
	c := w.connect(w.provision("my-device"), "my-device")
	c.subscribeAll()
	c.telemetry("%24.mid=m1&%24.ct=application%2Fjson&%24.ce=utf-8&color=red", `{"temp":21.5}`, 1)
	c.ask("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"battery":42}`)
	text := "hi"
	_, err := w.SendC2D("my-device", iothub.C2D{Text: &text, Properties: map[string]string{"$.mid": "m1", "iothub-ack": "full"}})
	must(t, err)
	c.wantPublish()
	c.send([]byte{0xc0, 0})
	c.want("d000")
	go func() { // the device answers methods until its connection ends
		for {
			p, err := c.read()
			if err != nil {
				return
			}
			if p.first>>4 != 3 {
				continue
			}
			topic, _, body := p.publish()
			if _, rid, ok := strings.Cut(topic, "?$rid="); ok && strings.HasPrefix(topic, "$iothub/methods/POST/") {
				_, _ = c.tls.Write(publishBytes("$iothub/methods/res/200/?$rid="+rid, body, 0, 0))
			}
		}
	}()
	h := w.httpClient()
	defer h.CloseIdleConnections()
	if r.stream {
		w.runStream(h, r)
		return
	}
	a := w.mustDo(h, r.method, w.info.Control+r.path, r.body)
	if r.answer == "" {
		if a.status != 204 {
			t.Errorf("%s: %d %s", r.name, a.status, a.text)
		}
		return
	}
	var want, got any
	must(t, json.Unmarshal([]byte(r.answer), &want))
	if err := json.Unmarshal([]byte(a.text), &got); err != nil || a.status != 200 || !reflect.DeepEqual(shape(got), shape(want)) {
		t.Errorf("%s: %d\n%s\nhas another form than\n%s", r.name, a.status, a.text, r.answer)
	}
}

// runStream reads an event of each kind that the section shows, and holds it against that.
func (w *world) runStream(h *http.Client, r documentedRoute) {
	t := w.t
	want := map[string]any{}
	for line := range strings.SplitSeq(r.section, "\n") {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var e map[string]any
			must(t, json.Unmarshal([]byte(data), &e))
			want[e["kind"].(string)] = shape(e)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), r.method, w.info.Control+r.path, nil)
	must(t, err)
	res, err := h.Do(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	in := bufio.NewScanner(res.Body)
	in.Scan()
	w.connect("hub-a", "my-device").telemetry("", "1", 1)
	kind := ""
	for len(want) > 0 && in.Scan() {
		if text, ok := strings.CutPrefix(in.Text(), "event: "); ok {
			kind = text
		}
		data, ok := bytes.CutPrefix(in.Bytes(), []byte("data: "))
		if !ok || want[kind] == nil {
			continue
		}
		var e any
		must(t, json.Unmarshal(data, &e))
		if !reflect.DeepEqual(shape(e), want[kind]) {
			t.Errorf("%s: %s", kind, data)
		}
		delete(want, kind)
	}
	if len(want) > 0 {
		t.Errorf("no event of %v", slices.Collect(maps.Keys(want)))
	}
}

// An error about a body names the fields of the body, and no types of Go.
func TestErrorsAboutABodyNameItsFields(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.provision("d")
		h := w.httpClient()
		defer h.CloseIdleConnections()
		s, d := w.service(0), w.dpsService()
		defer s.http.CloseIdleConnections()
		for _, c := range []struct{ path, body, want string }{
			{"/api/hubs/hub-a/fault", `{"kind":"kill","seconds":"60"}`, `the field "seconds" must be a number, and is a string`},
			{"/api/hubs/hub-a/fault", `{"kind":7}`, `the field "kind" must be a string, and is a number`},
			{"/api/hubs/hub-a/fault", `{"kind":"slow","delayMs":1.5}`, `the field "delayMs" must be a whole number, and is a number`},
			{"/api/hubs/hub-a/fault", `{"kind":"kill","dpsKnows":"no"}`, `the field "dpsKnows" must be true or false, and is a string`},
			{"/api/hubs/hub-a/fault", `{"kind":"kill","second":1}`, `unknown field "second"; there are: close, delayMs, dpsKnows,`},
			{"/api/hubs/hub-a/fault", `["kill"]`, `the document must be an object, and is an array`},
			{"/api/hubs/hub-a/fault", `{"kind":`, `it ends too early`},
			{"/api/hubs/hub-a/fault", `{kind:1}`, `it is not JSON, byte 2`},
			{"/api/devices/d/c2d", `{"text":["a"]}`, `the field "text" must be a string, and is an array`},
			{"/api/devices/d/c2d", `{"text":"a","properties":{"a":1}}`, `the field "properties`},
			{"/api/devices/d/block", `7`, `the document must be an object, and is a number`},
		} {
			a := w.mustDo(h, "POST", w.info.Control+c.path, c.body)
			if got, _ := a.body["error"].(string); a.status != 400 || !strings.Contains(got, c.want) {
				t.Errorf("%s %s: %d %s, want %s", c.path, c.body, a.status, a.text, c.want)
			}
		}
		answers := []httpAnswer{
			s.want(400, "ArgumentInvalid", "PUT", "/devices/x", `{"status":7}`),
			s.want(400, "ArgumentInvalid", "POST", "/twins/d/methods", `{"methodName":"m","responseTimeoutInSeconds":"soon"}`),
			s.want(400, "ArgumentInvalid", "PATCH", "/twins/d", `{"tags":[1]}`),
			d.want(400, 400004, "PUT", "/enrollments/e", `{"registrationId":7}`),
			w.mustDo(h, "PATCH", w.info.Control+"/api/devices/d/desired", `[1]`),
			w.mustDo(h, "PATCH", w.info.Control+"/api/devices/d/desired", `7`),
		}
		for _, a := range answers {
			for _, word := range []string{"Go ", "struct", "float64", "map[", "strconv", "sim.", "json:"} {
				if strings.Contains(a.text, word) {
					t.Errorf("%s speaks of %s", a.text, word)
				}
			}
		}
	})
}
