package page_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/page"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// staged is a device whose state a test sets, behind the real server of the status.
type staged struct {
	t      *testing.T
	events *status.Events
	addr   string

	mu   sync.Mutex
	view status.View
	stop func()
}

func (s *staged) View() status.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view
}

func (s *staged) Beats() []status.Beat { return nil }

// set changes the state, and tells why with an event.
func (s *staged) set(change func(*status.View), e journal.Event) {
	s.mu.Lock()
	change(&s.view)
	s.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Device = "pump-7"
	s.events.Emit(e)
}

// stage serves a device that is connected to hub-a.
func stage(t *testing.T) *staged {
	t.Helper()
	began := time.Now().Add(-20 * time.Minute)
	expires := time.Now().Add(40 * time.Minute)
	s := &staged{t: t, events: status.NewEvents(), addr: "127.0.0.1:0", view: status.View{
		Version: "v1.0.0", Device: "pump-7", State: status.Connected, Started: began, Hub: "hub-a.azure-devices.net", Since: began.Add(time.Second), Transport: "mqtt",
		Outbox:    status.Outbox{LastSeq: 12_000},
		Telemetry: status.Telemetry{Made: 12_000, Acknowledged: 12_000, PerSecond: 10},
		Link:      status.Link{RTTMs: 2.1, InFlight: 1, Window: 64}, DPS: status.DPS{Registrations: 1, LastAt: &began},
		Clock: status.Clock{Trusted: true}, Credential: status.Credential{Kind: "group-key", Expires: &expires}, Flows: []status.Flow{}, Assets: []status.Asset{},
	}}
	same := func(*status.View) {}
	s.set(same, journal.Event{Time: began, Kind: journal.Started, Text: "started v1.0.0"})
	s.set(same, journal.Event{Time: s.view.Since, Kind: journal.Connected, Hub: s.view.Hub, Text: "connected to hub-a.azure-devices.net in 3.1 ms"})
	s.serve()
	t.Cleanup(func() { s.stop() })
	return s
}

// serve starts the server, at the same address as before.
func (s *staged) serve() {
	s.t.Helper()
	l, err := new(net.ListenConfig).Listen(s.t.Context(), "tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	server := &status.Server{Shown: s, Events: s.events, Page: page.Device()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l, status.OnMachine) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
}

// killHub lets the hub go away 75 seconds ago; the next try is in 20 s.
func (s *staged) killHub() {
	lost := time.Now().Add(-75 * time.Second)
	next := time.Now().Add(20 * time.Second)
	s.set(func(*status.View) {}, journal.Event{Time: lost, Kind: journal.Lost, Hub: "hub-a.azure-devices.net", Signal: "link reset", Error: "read: connection reset by peer",
		Text: "link lost: connection reset by peer (hub-a.azure-devices.net)"})
	s.set(func(v *status.View) {
		v.State, v.Hub, v.Since, v.NextTry = status.Waiting, "", lost, &next
		v.Link = status.Link{}
		v.Why = &status.Why{Rule: "H07", Signal: "dial refused", Action: "reprovision", Text: "hub-a refuses connections: nobody listens there; reprovision; check in the portal whether the hub is down",
			Cause: "hub-a refuses connections: nobody listens there", Hint: "check in the portal whether the hub is down",
			Evidence: "dial tcp 10.1.2.3:8883: connect: connection refused", At: lost.Add(time.Second)}
		v.Outbox.Queued, v.Outbox.Bytes, v.Outbox.OldestAgeSeconds, v.Telemetry.PerSecond = 750, 96_000, 75, 0
	}, journal.Event{Time: lost, Kind: journal.Decision, Hub: "hub-a.azure-devices.net", Rule: "H02", Signal: "link reset", Action: "reconnect", Error: "reset", Text: "hub-a.azure-devices.net: reconnect"})
}

// recover brings the device up on the other hub.
func (s *staged) recover() {
	s.set(func(v *status.View) {
		v.State, v.Hub, v.Since, v.NextTry = status.Connected, "hub-b.azure-devices.net", time.Now(), nil
		v.Outbox.Queued, v.Outbox.Bytes, v.Outbox.OldestAgeSeconds, v.Telemetry.PerSecond = 0, 0, 0, 10
		v.Telemetry.Made, v.Telemetry.Acknowledged = 12_750, 12_750
		v.Link = status.Link{RTTMs: 3.4, InFlight: 1, Window: 64}
		v.Failovers, v.LastFailover = 1, &status.Failover{From: "hub-a.azure-devices.net", To: v.Hub, Rule: "H02", TookMs: 75_000, At: v.Since}
	}, journal.Event{Kind: journal.Connected, Hub: "hub-b.azure-devices.net", Outage: 75 * time.Second, Text: "up again on hub-b.azure-devices.net after 75 s, 0 lost"})
}

// TestFourAnswersTellAnOutage lets a hub go away and another one take over. The answers stand
// first, and the time line shows both.
func TestFourAnswersTellAnOutage(t *testing.T) {
	s := stage(t)
	b := openPage(t, "http://"+s.addr+"/", look{width: 1280, height: 560})
	b.until(`document.querySelector("#verdict-text").textContent === "Connected to hub-a.azure-devices.net"`)
	answers := func(want ...string) {
		t.Helper()
		for i, id := range []string{"a-oldest", "a-why", "a-next", "a-do"} {
			if got := b.text("#" + id + " b"); got != want[i] {
				t.Errorf("%s says %q, not %q", id, got, want[i])
			}
		}
	}
	answers("None", "There is a link", "Not needed", "Nothing")
	s.set(func(v *status.View) { v.Commands.Methods++ }, journal.Event{Kind: journal.MethodCall, Name: "echo", Status: 200, Text: "method echo answered 200 in 1.2 ms"})
	s.set(func(v *status.View) { v.Commands.Desired++ }, journal.Event{Kind: journal.DesiredChange, Name: "fanSpeed", Status: 200, Text: "desired fanSpeed set to 1200"})
	b.until(`document.querySelectorAll("#commands li").length === 2`)
	b.picture("device-connected")

	s.killHub()
	b.until(`document.querySelector("#verdict-text").textContent === "No link"`)
	b.until(`/^75|76|77|78 s$/.test(document.querySelector("#a-oldest b").textContent)`)
	if got := b.text("#a-why b"); got != "hub-a refuses connections: nobody listens there" {
		t.Error(got)
	}
	if got := b.text("#a-why code"); got != "dial tcp 10.1.2.3:8883: connect: connection refused" {
		t.Error(got)
	}
	if got := b.text("#a-why span"); !strings.HasSuffix(got, ". More: hubhop explain H07") || strings.Contains(got, "refuse") {
		t.Error(got)
	}
	if got := b.text("#a-do b"); got != "Check in the portal whether the hub is down" {
		t.Error(got)
	}
	b.until(`document.querySelector("#live").textContent.includes("No link. hub-a refuses connections")`)
	// The countdown runs between two answers of the server.
	b.until(`/^in [0-9.]+ s$/.test(document.querySelector("#a-next b").textContent)`)
	before := b.text("#a-next b")
	b.until(fmt.Sprintf(`document.querySelector("#a-next b").textContent !== %s`, quoted(before)))
	b.picture("device-outage")
	b.write("device-answers", chromedp.CaptureScreenshot()) // docs/page.md shows it

	s.recover()
	b.until(`document.querySelector("#verdict-text").textContent === "Connected to hub-b.azure-devices.net"`)
	answers("None", "There is a link", "Not needed", "Nothing")
	b.until(`document.querySelectorAll("#moves tr").length === 1`)
	var cells string
	if cells = value[string](b, `[...document.querySelector("#moves tr").children].slice(1).map((c) => c.textContent).join(" | ")`); cells !=
		"hub-a.azure-devices.net | hub-b.azure-devices.net | H02: link reset | 75 s" {
		t.Error(cells)
	}
	if keys := value[string](b, `[...document.querySelectorAll("#keys li")].map((k) => k.textContent).join(" | ")`); keys != "hub-a.azure-devices.net | hub-b.azure-devices.net | no link" {
		t.Errorf("the keys of the time line: %s", keys)
	}
	if n := value[int](b, `document.querySelectorAll("#timeline .span").length`); n != 2 {
		t.Errorf("%d links on the time line", n)
	}
	b.picture("device-recovered")

	// Loaded again, the page knows what has happened from the events that the server keeps.
	b.do(reload)
	b.until(`document.querySelectorAll("#moves tr").length === 1 && document.querySelectorAll("#timeline .span").length === 2 && document.querySelectorAll("#commands li").length === 2`)
	if again := value[string](b, `[...document.querySelector("#moves tr").children].slice(1).map((c) => c.textContent).join(" | ")`); again != cells {
		t.Errorf("%q, before %q", again, cells)
	}
}

// TestAFaultOfAFlowIsAnAnswer: with a link, but a flow that a person must see to, all is not well.
func TestAFaultOfAFlowIsAnAnswer(t *testing.T) {
	s := stage(t)
	s.set(func(v *status.View) {
		v.Flows = []status.Flow{{Name: "units", State: "running"}, {Name: "averages", State: "failed", Fault: "b:1883: nobody listens there", Text: "b:1883: nobody listens there"}}
	}, journal.Event{Kind: journal.Warning, Text: "b:1883: nobody listens there"})
	b := openPage(t, "http://"+s.addr+"/", desktop)
	b.until(`document.querySelector("#a-do b").textContent === "The flow averages: b:1883: nobody listens there"`)
}

// TestDevicePageComesBackWithItsServer restarts the device's program under the page.
func TestDevicePageComesBackWithItsServer(t *testing.T) {
	s := stage(t)
	b := openPage(t, "http://"+s.addr+"/", desktop)
	b.until(`document.querySelector("#server-text").textContent === "Live" && document.querySelector("#verdict-text").textContent.startsWith("Connected")`)
	b.serverAway(true)
	s.stop()
	b.until(`document.querySelector("#server-text").textContent === "Server away" && !document.querySelector("#away").hidden`)
	s.events = status.NewEvents() // another run of the process
	s.set(func(v *status.View) { v.Hub, v.Version, v.Started, v.Since = "hub-c", "v2.0.0", time.Now(), time.Now() }, journal.Event{Kind: journal.Started, Text: "started v2.0.0"})
	s.serve()
	b.until(`document.querySelector("#server-text").textContent === "Live" && document.querySelector("#away").hidden`)
	b.until(`document.querySelector("#verdict-text").textContent === "Connected to hub-c" && document.querySelector("#events").textContent.includes("started v2.0.0")`)
}

// TestLongRunningDeviceIsShownFromWhatIsKept opens the page of a device that has had more events
// than are kept. The page says so, and knows of the last failover from the status alone.
func TestLongRunningDeviceIsShownFromWhatIsKept(t *testing.T) {
	s := stage(t)
	s.killHub()
	s.recover()
	for i := range status.KeptEvents {
		s.set(func(*status.View) {}, journal.Event{Kind: journal.MethodCall, Name: "echo", Status: 200, Text: fmt.Sprint("method echo, call ", i)})
	}
	b := openPage(t, "http://"+s.addr+"/", desktop)
	b.until(`document.querySelector("#events").textContent.includes("method echo, call 999")`)
	b.until(`document.querySelector("#moves tr")?.children[2].textContent === "hub-b.azure-devices.net"`)
	if n := value[int](b, `document.querySelectorAll("#events li").length + document.querySelectorAll("#commands li").length`); n != 90 {
		t.Errorf("%d entries", n)
	}
	b.do(reload)
	b.until(`document.querySelectorAll("#timeline .span").length === 1 && document.querySelectorAll("#timeline .cut").length === 1`)
}

// TestMarkupOfADeviceStaysText shows the device's page markup in every text of the status and of
// the events.
func TestMarkupOfADeviceStaysText(t *testing.T) {
	s := stage(t)
	m := markups
	s.set(func(v *status.View) {
		v.Device, v.Version, v.Hub, v.Transport, v.State = m[0], m[1], "", m[2], status.Refused
		v.Why = &status.Why{Rule: m[0], Signal: m[1], Action: m[2], Text: m[0], Cause: m[0], Also: m[1], Hint: m[0], Evidence: m[1]}
		v.DPS.StillNames = m[0]
		v.LastFailover = &status.Failover{From: m[0], To: m[1], Rule: m[2], At: time.Now(), TookMs: 10}
		v.Outbox.Degraded, v.Outbox.Text, v.Credential.Kind = true, m[0], m[1]
		v.Flows = []status.Flow{{Name: m[0], State: m[1], Fault: m[2], Text: m[2]}}
		v.Assets = []status.Asset{{Name: m[0], State: m[1], Text: m[2]}}
	}, journal.Event{Kind: journal.Warning, Text: m[0], Rule: m[1], Name: m[2]})
	for _, kind := range []journal.Kind{journal.Connected, journal.Lost, journal.Decision, journal.MethodCall, journal.DesiredChange, journal.CloudMessage, "unheard-of"} {
		s.set(func(*status.View) {}, journal.Event{Kind: kind, Hub: m[0], Peer: m[1], Rule: m[1], Signal: m[0], Action: m[2], Name: m[0], Error: m[0], Text: m[0]})
	}
	b := openPage(t, "http://"+s.addr+"/", desktop)
	b.until(`document.querySelectorAll("#events li").length === 10 && document.querySelectorAll("#flows tr").length === 1`)
	b.harmless("#device", "#a-why", "#a-do", "#moves", "#timeline", "#keys", "#flows", "#assets", "#commands", "#facts", "#events")
}
