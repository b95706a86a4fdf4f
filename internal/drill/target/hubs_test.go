package target

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
)

// plainHubs is the target that has the services of a cloud.
func plainHubs(t *testing.T, c *cloud, id string) *Hubs {
	info := c.Info()
	h := &Hubs{DPS: info.DPS.ConnectionString, Client: c.client, Who: insider(t), Site: c.site(id)}
	h.Key = h.Site.Key
	for _, hub := range info.Hubs {
		h.Hubs = append(h.Hubs, hub.ConnectionString)
	}
	return h
}

// services are what a test looks at behind the target's back: DPS, and the hubs by name.
func services(t *testing.T, c *cloud) (dps *service, hubs map[string]*service) {
	t.Helper()
	info, hubs := c.Info(), map[string]*service{}
	dps, err := newService(info.DPS.ConnectionString, c.client)
	ok(t, "DPS", err)
	for _, h := range info.Hubs {
		hubs[h.Name], err = newService(h.ConnectionString, c.client)
		ok(t, h.Name, err)
	}
	return dps, hubs
}

// TestADeviceOfAGroupMovesAndLeavesNoTrace: over the service REST of a DPS and its hubs, which no
// part of this program has written for it, a device is moved there and back, is called, and is
// blocked. In the end the enrollment and the identities are what they were.
func TestADeviceOfAGroupMovesAndLeavesNoTrace(t *testing.T) {
	c := newCloud(t)
	const id = "mover"
	w := opened(t, plainHubs(t, c, id))
	ctx := within(t)
	c.telemetry(id, "hub-a")

	ok(t, "failover", w.Cloud.Failover(ctx, id, 0))
	c.telemetry(id, "hub-b")
	r, err := w.Cloud.Method(ctx, id, "echo", json.RawMessage(`"hello"`))
	ok(t, "method", err)
	if r.Status != 200 || string(r.Payload) != `"hello"` {
		t.Errorf("echo answers %d %s", r.Status, r.Payload)
	}
	ok(t, "desire", w.Cloud.Desire(ctx, id, json.RawMessage(`{"fanSpeed":1200}`)))
	c.until("the acknowledgement", func() bool {
		twin, err := w.Cloud.Twin(ctx, id)
		ok(t, "twin", err)
		ack, _ := twin.Reported["fanSpeed"].(map[string]any)
		return ack != nil && ack["value"] == 1200.0
	})
	c.until("the link is seen", func() bool {
		s, err := w.Cloud.State(ctx)
		ok(t, "state", err)
		return string(s.Devices[0].ConnectedHub) == w.Hubs[1]
	})

	connects := c.State().Totals.Connects
	ok(t, "disconnect", w.Cloud.Act(ctx, id, drill.Disconnect))
	c.until("it comes back", func() bool { return c.State().Totals.Connects > connects })
	ok(t, "block", w.Cloud.Act(ctx, id, drill.Block))
	c.until("it is refused", func() bool { return c.State().Devices[0].ConnectedHub == "" })
	ok(t, "unblock", w.Cloud.Act(ctx, id, drill.Unblock))
	c.telemetry(id, "hub-b")
	ok(t, "failback", w.Cloud.Act(ctx, id, drill.Failback))
	c.telemetry(id, "hub-a")

	w.Devices[0].Stop()
	ok(t, "close", w.Close())
	dps, hubs := services(t, c)
	if err := dps.ask(ctx, http.MethodGet, "/enrollments/"+id, dpsVersion, "", nil, nil); !missing(err) {
		t.Errorf("an individual enrollment is left: %v", err)
	}
	var identity struct{ Status string }
	ok(t, "identity", hubs["hub-a"].ask(ctx, http.MethodGet, "/devices/"+id, hubVersion, "", nil, &identity))
	if identity.Status != "enabled" {
		t.Errorf("the identity is %s", identity.Status)
	}
	j := drill.Judge{}
	for _, m := range c.Ledger(id, true).Messages {
		j.Arrived(drill.ArrivalOf(m))
	}
	if v := j.Verdict(false); v.Outcome != drill.Passed {
		t.Errorf("%s", v.Reason)
	}
}

// TestADeviceReturnsByItself: after its time, as IoT Central does it.
func TestADeviceReturnsByItself(t *testing.T) {
	c := newCloud(t)
	const id = "returner"
	w := opened(t, plainHubs(t, c, id))
	c.telemetry(id, "hub-a")
	ok(t, "failover", w.Cloud.Failover(within(t), id, 2*time.Second))
	c.telemetry(id, "hub-b")
	c.telemetry(id, "hub-a")
}

// TestAnIndividualEnrollmentIsPutBack: with all that was in it, and with its keys.
func TestAnIndividualEnrollmentIsPutBack(t *testing.T) {
	c := newCloud(t)
	const id = "single"
	dps, _ := services(t, c)
	ctx := within(t)
	site := c.site(id)
	info := c.Info()
	ok(t, "enrol", dps.ask(ctx, http.MethodPut, "/enrollments/"+id, dpsVersion, "", map[string]any{
		"registrationId": id, "iotHubs": []string{info.Hubs[0].Host, info.Hubs[1].Host}, "allocationPolicy": "hashed",
		"attestation":       map[string]any{"type": "symmetricKey", "symmetricKey": map[string]string{"primaryKey": site.Key, "secondaryKey": site.Key}},
		"reprovisionPolicy": map[string]bool{"updateHubAssignment": true, "migrateDeviceData": false},
		"initialTwin":       map[string]any{"tags": map[string]string{"site": "lab"}, "properties": map[string]any{"desired": map[string]int{"fanSpeed": 7}}},
	}, nil))
	enrollment := func() (e map[string]any) {
		ok(t, "enrollment", dps.ask(ctx, http.MethodGet, "/enrollments/"+id, dpsVersion, "", nil, &e))
		var keys any
		ok(t, "keys", dps.ask(ctx, http.MethodPost, "/enrollments/"+id+"/attestationmechanism", dpsVersion, "", nil, &keys))
		e["attestation"] = keys
		for _, made := range []string{"etag", "lastUpdatedDateTimeUtc", "registrationState"} {
			delete(e, made)
		}
		return e
	}
	before := enrollment()
	target := plainHubs(t, c, id)
	target.Key = "" // the enrollment attests it
	w := opened(t, target)
	first := ""
	c.until("a link", func() bool {
		first = ""
		for _, d := range c.State().Devices {
			first = string(d.ConnectedHub)
		}
		return first != ""
	})
	other := map[string]string{"hub-a": "hub-b", "hub-b": "hub-a"}[first]
	ok(t, "failover", w.Cloud.Failover(ctx, id, 0))
	c.telemetry(id, other)
	if reflect.DeepEqual(enrollment(), before) {
		t.Error("nothing was changed: the test proves nothing")
	}
	w.Devices[0].Stop()
	ok(t, "close", w.Close())
	if after := enrollment(); !reflect.DeepEqual(after, before) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
}

// TestARedirectionOfAServiceIsNotFollowed: the token of a policy would go to whatever address the
// answer names.
func TestARedirectionOfAServiceIsNotFollowed(t *testing.T) {
	elsewhere := make(chan string, 10)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { elsewhere <- r.Method + " " + r.URL.Path }))
	defer other.Close()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	s, err := newService("HostName="+strings.TrimPrefix(server.URL, "https://")+";SharedAccessKeyName=a;SharedAccessKey=QUJD", server.Client())
	ok(t, "service", err)
	if err := s.ask(t.Context(), http.MethodGet, "/enrollments/d", dpsVersion, "", nil, nil); err == nil || !strings.Contains(err.Error(), "answers 307") {
		t.Errorf("DPS: %v", err)
	}
	registry, err := s.registry()
	ok(t, "registry", err)
	if _, err := registry.GetDevice(t.Context(), "d"); err == nil {
		t.Error("a hub: a redirection is an answer")
	}
	select {
	case got := <-elsewhere:
		t.Errorf("the other address was asked: %s", got)
	default:
	}
}

// TestHubsRefuseBeforeTheyBegin: a wrong key, a device without a key, a single hub.
func TestHubsRefuseBeforeTheyBegin(t *testing.T) {
	c := newCloud(t)
	for _, x := range []struct {
		name, want string
		spoil      func(*Hubs)
	}{
		{"one hub", "a move needs two hubs", func(h *Hubs) { h.Hubs = h.Hubs[:1] }},
		{"no key", "if it has a symmetric key", func(h *Hubs) { h.Key = "" }},
		{"no connection string", "the connection string of DPS: it must be HostName=", func(h *Hubs) { h.DPS = "secret" }},
		{"a foreign key", "answers 401", func(h *Hubs) {
			h.DPS = strings.Split(h.DPS, ";SharedAccessKey=")[0] + ";SharedAccessKey=QUJDREVGR0hJSktMTU5PUA=="
		}},
		{"a broken key", "of hub 2: its SharedAccessKey is not base64", func(h *Hubs) { h.Hubs[1] = strings.Split(h.Hubs[1], ";SharedAccessKey=")[0] + ";SharedAccessKey=!" }},
	} {
		t.Run(x.name, func(t *testing.T) {
			h := plainHubs(t, c, "d")
			x.spoil(h)
			_, err := h.Open(t.Context(), drill.Plan{Dir: t.TempDir()})
			if err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
		})
	}
	h := plainHubs(t, c, "d")
	for need, can := range map[drill.Need]bool{
		drill.NeedMoves: true, drill.NeedOperator: true, drill.NeedMethods: true, drill.NeedTwin: true, drill.NeedProcess: true,
		drill.NeedHubFaults: false, drill.NeedDPSFaults: false, drill.NeedMail: false, drill.NeedPaths: false, drill.NeedVirtual: false, drill.NeedKill: false,
	} {
		if why := h.Lacks(need); (why == "") != can {
			t.Errorf("%s: %q", need, why)
		}
	}
	if _, err := (lacking{}).Mail(t.Context(), "d"); !errors.Is(err, errLacking) {
		t.Error(err)
	}
}
