package sim

import (
	"context"
	"net/http"
	"strconv"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

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
	if s.config.Page != nil {
		mux.Handle("GET /{$}", s.config.Page)
		mux.Handle("GET /page/", s.config.Page)
	}
	handle("/", func(r *http.Request) (any, error) {
		return nil, azure.Errorf(404, "", "there is no %s %.128s in the control API; GET /api lists what there is", r.Method, r.URL.Path)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff") // what devices sent is data, and never a page
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
			var f iothub.Fault
			if err := decodeStrict(r, &f); err != nil {
				return nil, err
			}
			return nil, s.FaultHub(r.PathValue("name"), f)
		}},
		{Method: "DELETE", Path: "/api/hubs/{name}/fault", About: "end a hub's fault", answer: func(r *http.Request) (any, error) {
			return nil, s.HealHub(r.PathValue("name"))
		}},
		{Method: "POST", Path: "/api/dps/fault", About: "let DPS misbehave", answer: func(r *http.Request) (any, error) {
			var f provisioning.DPSFault
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
	told := func(name string, act func(id string) error) func(id string) error {
		return func(id string) error { return s.tellOperator(name, id, act(id)) }
	}
	return []controlRoute{
		{Method: "POST", Path: on("failover"), About: "move it to another hub, as IoT Central does", answer: s.postFailover},
		simple("failback", "return it to its first hub", s.Failback),
		{Method: "POST", Path: on("disable"), About: "disable it in DPS and its hub, or in the hub only", answer: s.postDisable},
		simple("enable", "undo disable", told("enable", s.Enable)),
		simple("block", "block it as an operator of IoT Central", told("block", s.Block)),
		simple("unblock", "undo block", told("unblock", s.Unblock)),
		simple("approve", "let in a device that waits for approval", told("approve", s.Approve)),
		simple("delete", "delete it from DPS and all hubs", told("delete", s.Delete)),
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
			var c iothub.C2D
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
	if err := iothub.CheckTimes(b.Seconds, 0); err != nil {
		return nil, err
	}
	return nil, s.Failover(r.PathValue("id"), azure.Seconds(b.Seconds))
}

func (s *Sim) postDisable(r *http.Request) (any, error) {
	var b disableBody
	if err := decodeStrict(r, &b); err != nil {
		return nil, err
	}
	if b.DPSKnows != nil && !*b.DPSKnows {
		return nil, s.tellOperator("disable", r.PathValue("id"), s.DisableIdentity(r.PathValue("id")))
	}
	return nil, s.tellOperator("disable", r.PathValue("id"), s.Disable(r.PathValue("id")))
}

// tellOperator tells the watchers what an operator has done to a device, unless it failed.
func (s *Sim) tellOperator(what, id string, err error) error {
	if err == nil {
		s.events.emit(iothub.Event{Kind: iothub.EventOperator, Device: id, Reason: what})
	}
	return err
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
		ctx, cancel = context.WithTimeout(ctx, azure.Seconds(secs))
		defer cancel()
	}
	return s.Method(ctx, r.PathValue("id"), r.PathValue("name"), payload)
}
