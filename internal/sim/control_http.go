package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// controlBodyLimit is the largest body of a control request.
const controlBodyLimit = 1 << 20

// controlRoute is one request of the control API.
type controlRoute struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	About  string `json:"about"`

	answer func(r *http.Request) (any, error)
	stream http.HandlerFunc // instead of answer
}

// ControlHandler is the control API as an HTTP handler: JSON over plain HTTP, success is 200 with
// JSON or 204, errors are {"error":"sentence"} with a 4xx or, for a device that does not answer, a
// 504. docs/control-api.md describes it.
func (s *Sim) ControlHandler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, controlBodyLimit)
			v, err := f(r)
			writeControl(w, v, err)
		})
	}
	for _, route := range s.controlRoutes() {
		if route.stream != nil {
			mux.HandleFunc(route.Method+" "+route.Path, route.stream)
			continue
		}
		handle(route.Method+" "+route.Path, route.answer)
	}
	handle("/", func(r *http.Request) (any, error) {
		return nil, azure.Errorf(404, "", "there is no %s %.128s in the control API; GET /api lists what there is", r.Method, r.URL.Path)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.guard(r); err != nil {
			writeControl(w, nil, err)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// controlRoutes returns all routes, in the order of the documentation.
func (s *Sim) controlRoutes() []controlRoute {
	routes := []controlRoute{
		{Method: "GET", Path: "/api/state", About: "hubs, devices and totals at this moment", answer: func(*http.Request) (any, error) { return s.State(), nil }},
		{Method: "GET", Path: "/api/events", About: "what happens from now on, as server-sent events", stream: s.streamEvents},
		{Method: "GET", Path: "/api/ledger", About: "what was received: counts, and with messages=1 the messages", answer: s.showLedger},
		{Method: "DELETE", Path: "/api/ledger", About: "forget what was received", answer: func(*http.Request) (any, error) { return nil, s.ResetLedger() }},
		{Method: "POST", Path: "/api/hubs/{name}/fault", About: "let a hub misbehave", answer: func(r *http.Request) (any, error) {
			var f Fault
			if err := decodeStrict(r, &f); err != nil {
				return nil, err
			}
			return nil, s.FaultHub(r.PathValue("name"), f)
		}},
		{Method: "DELETE", Path: "/api/hubs/{name}/fault", About: "end a hub's fault", answer: func(r *http.Request) (any, error) {
			return nil, s.HealHub(r.PathValue("name"))
		}},
		{Method: "POST", Path: "/api/dps/fault", About: "let DPS misbehave", answer: func(r *http.Request) (any, error) {
			var f DPSFault
			if err := decodeStrict(r, &f); err != nil {
				return nil, err
			}
			return nil, s.FaultDPS(f)
		}},
		{Method: "DELETE", Path: "/api/dps/fault", About: "end the fault of DPS", answer: func(*http.Request) (any, error) { return nil, s.HealDPS() }},
	}
	routes = append(routes, s.deviceRoutes()...)
	list := controlRoute{Method: "GET", Path: "/api", About: "these routes"}
	routes = append([]controlRoute{list}, routes...)
	routes[0].answer = func(*http.Request) (any, error) { return map[string]any{"routes": routes}, nil }
	return routes
}

func (s *Sim) showLedger(r *http.Request) (any, error) {
	messages, err := flagParam(r, "messages")
	if err != nil {
		return nil, err
	}
	after := int64(0)
	if text := r.URL.Query().Get("after"); text != "" {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			return nil, azure.Errorf(400, "", "after is %.64q, must be a number of messages", text)
		}
	}
	device := r.URL.Query().Get("device")
	if !messages {
		l := s.ledger.Sum(device)
		l.Known = s.knows(device, l.Received)
		return l, nil
	}
	l, kept := s.ledger.Read(device, after)
	l.Known = s.knows(device, l.Received)
	return &messageStream{l, kept}, nil
}

// deviceRoutes returns the routes of one device.
func (s *Sim) deviceRoutes() []controlRoute {
	on := func(name string) string { return "/api/devices/{id}/" + name }
	simple := func(name, about string, act func(id string) error) controlRoute {
		return controlRoute{Method: "POST", Path: on(name), About: about, answer: func(r *http.Request) (any, error) {
			if err := decodeStrict(r, &struct{}{}); err != nil {
				return nil, err
			}
			return nil, act(r.PathValue("id"))
		}}
	}
	return []controlRoute{
		{Method: "POST", Path: on("failover"), About: "move it to another hub, as IoT Central does", answer: s.postFailover},
		simple("failback", "return it to its first hub", s.Failback),
		{Method: "POST", Path: on("disable"), About: "disable it in DPS and its hub, or in the hub only", answer: s.postDisable},
		simple("enable", "undo disable", s.Enable),
		simple("block", "block it as an operator of IoT Central", s.Block),
		simple("unblock", "undo block", s.Unblock),
		simple("approve", "let in a device that waits for approval", s.Approve),
		simple("delete", "delete it from DPS and all hubs", s.Delete),
		simple("disconnect", "close its connection", s.Disconnect),
		{Method: "POST", Path: on("methods/{name}"), About: "invoke a direct method; the body is its payload", answer: s.postMethod},
		{Method: "PATCH", Path: on("desired"), About: "merge the body into the desired properties", answer: func(r *http.Request) (any, error) {
			patch, err := readBody(r)
			if err != nil {
				return nil, err
			}
			return nil, s.PatchDesired(r.PathValue("id"), patch)
		}},
		{Method: "GET", Path: on("twin"), About: "its desired and reported properties", answer: func(r *http.Request) (any, error) {
			metadata, err := flagParam(r, "metadata")
			if err != nil {
				return nil, err
			}
			return s.twin(r.PathValue("id"), metadata)
		}},
		{Method: "POST", Path: on("c2d"), About: "send it a cloud-to-device message", answer: func(r *http.Request) (any, error) {
			var c C2D
			if err := decodeStrict(r, &c); err != nil {
				return nil, err
			}
			mid, err := s.SendC2D(r.PathValue("id"), c)
			return map[string]string{"mid": mid}, err
		}},
		{Method: "GET", Path: on("c2d"), About: "what became of its cloud-to-device messages", answer: func(r *http.Request) (any, error) {
			messages, err := s.C2DMessages(r.PathValue("id"))
			return map[string]any{"messages": messages}, err
		}},
	}
}

// These are the bodies of requests that have no type elsewhere.
type (
	failoverBody struct {
		Seconds float64 `json:"seconds"`
	}
	disableBody struct {
		DPSKnows *bool `json:"dpsKnows"`
	}
)

func (s *Sim) postFailover(r *http.Request) (any, error) {
	var b failoverBody
	if err := decodeStrict(r, &b); err != nil {
		return nil, err
	}
	if err := checkTimes(b.Seconds, 0); err != nil {
		return nil, err
	}
	return nil, s.Failover(r.PathValue("id"), seconds(b.Seconds))
}

func (s *Sim) postDisable(r *http.Request) (any, error) {
	var b disableBody
	if err := decodeStrict(r, &b); err != nil {
		return nil, err
	}
	if b.DPSKnows != nil && !*b.DPSKnows {
		return nil, s.DisableIdentity(r.PathValue("id"))
	}
	return nil, s.Disable(r.PathValue("id"))
}

func (s *Sim) postMethod(r *http.Request) (any, error) {
	payload, err := readBody(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if text := r.URL.Query().Get("timeoutSeconds"); text != "" {
		secs, err := strconv.ParseFloat(text, 64)
		if err != nil || !(secs > 0 && secs <= 300) {
			return nil, azure.Errorf(400, "", "timeoutSeconds is %.64q, must be more than 0 and at most 300", text)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, seconds(secs))
		defer cancel()
	}
	return s.Method(ctx, r.PathValue("id"), r.PathValue("name"), payload)
}

// guard refuses requests that a web page somebody else wrote could have made. Its own name may have been made to point here, so the
// Host must be this machine, whatever is asked; and what changes something must not come from a foreign Origin. What only reads may:
// a browser does not show the answer to the page.
func (s *Sim) guard(r *http.Request) error {
	if !s.isOwnHost(r.Host) {
		return azure.Errorf(403, "", "requests must name this machine as their host, by address or as localhost, not as %q", r.Host)
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	for _, origin := range r.Header.Values("Origin") {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host || u.Host == "" {
			return azure.Errorf(403, "", "requests from %q may not change anything", origin)
		}
	}
	return nil
}

// isOwnHost says whether a Host header names this machine: loopback, the address the control API listens on, or any address where it
// listens on all of them.
func (s *Sim) isOwnHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	own, _, _ := net.SplitHostPort(s.controlAddress())
	if isLoopbackHost(host) || host != "" && (host == own || strings.EqualFold(host, wire.HostIn(s.control.Told()))) {
		return true
	}
	named, err := netip.ParseAddr(host)
	at, ownErr := netip.ParseAddr(own)
	return err == nil && ownErr == nil && at.IsUnspecified() && named.IsValid()
}

func readBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, azure.Errorf(413, "", "the body is larger than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, azure.Errorf(400, "", "the body cannot be read: %v", err)
	}
	return b, nil
}

// decodeStrict reads one JSON object and nothing else; an empty body is an empty object.
func decodeStrict(r *http.Request, into any) error {
	b, err := readBody(r)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return azure.Errorf(400, "", "the body is not what is expected here: %s", azure.JSONFault(err, into))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return azure.Errorf(400, "", "something follows the JSON object")
	}
	return nil
}

func flagParam(r *http.Request, name string) (bool, error) {
	switch v := r.URL.Query().Get(name); v {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	default:
		return false, azure.Errorf(400, "", "%s is %q, must be 0 or 1", name, v)
	}
}

func writeControl(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status = http.StatusInternalServerError
		body := map[string]string{"error": err.Error()}
		if e, ok := errors.AsType[*azure.Error](err); ok {
			status = e.Status
			if e.Code != "" {
				body["code"] = e.Code
			}
		}
		v = body
	}
	if v == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if stream, ok := v.(*messageStream); ok {
		stream.write(w)
		return
	}
	_, _ = w.Write(append(azure.EncodeJSON(v), '\n'))
}

// messageStream is a ledger whose messages are decoded one by one while they are written, because
// all of them decoded may need several times the memory of the ledger.
type messageStream struct {
	ledger Ledger
	kept   ledger.Kept
}

func (m *messageStream) write(w io.Writer) {
	m.ledger.Messages = nil
	text := azure.EncodeJSON(m.ledger)
	out := bufio.NewWriterSize(w, 16<<10)
	_, _ = out.Write(text[:len(text)-1])
	_, _ = out.WriteString(`,"messages":[`)
	comma := false
	for message := range m.kept.All() {
		if comma {
			_ = out.WriteByte(',')
		}
		comma = true
		if _, err := out.Write(azure.EncodeJSON(message)); err != nil {
			return // the client has left
		}
	}
	_, _ = out.WriteString("]}\n")
	_ = out.Flush()
}

// sseIdle is how often a silent event stream shows that it lives.
const sseIdle = 30 * time.Second

// streamEvents serves GET /api/events until the client leaves or the simulator stops.
func (s *Sim) streamEvents(w http.ResponseWriter, r *http.Request) {
	events, leave, err := s.events.read()
	if err != nil {
		w.Header().Set("Connection", "close")
		writeControl(w, nil, err)
		return
	}
	defer leave()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	write := func(format string, args ...any) bool {
		_ = out.SetWriteDeadline(time.Now().Add(wire.WriteTimeout))
		_, err := fmt.Fprintf(w, format, args...)
		return err == nil && out.Flush() == nil
	}
	idle := time.NewTimer(sseIdle)
	defer idle.Stop()
	for ok := write(": watching\n\n"); ok; {
		select {
		case e, open := <-events:
			if !open {
				return
			}
			ok = write("event: %s\ndata: %s\n\n", e.Kind, azure.EncodeJSON(e))
		case <-idle.C:
			ok = write(": still here\n\n")
		case <-r.Context().Done():
			return
		}
		idle.Reset(sseIdle)
	}
}
