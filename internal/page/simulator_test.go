package page_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/hubhop-iot/hubhop/internal/racing"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// TestClickMovesADevice attacks a hub with a click. A real device moves to the other hub, on the
// page too, and the numbers of the page are those of the control API.
func TestClickMovesADevice(t *testing.T) {
	cloud := startCloud(t, nil)
	stop := startDevices(t, cloud, 100*time.Millisecond, "pump-1")
	b := openPage(t, cloud.Info().Control+"/", desktop)
	b.until(`document.querySelector('[data-hub="hub-a"]')?.dataset.devices === "1"`)
	b.until(`document.getElementById("verdict-text").textContent === "The device is connected."`)
	b.until(`document.querySelector('#rows tr').children[1].textContent === "hub-a"`)
	b.picture("simulator-calm")

	b.click(place("hub-a") + " .attack")
	b.until(`document.querySelector('[data-hub="hub-a"]').dataset.fault === "kill"`)
	b.until(`document.querySelector('[data-hub="hub-b"]').dataset.devices === "1"`)
	b.until(`document.querySelector('#rows tr').children[1].textContent === "hub-b"`)
	if s := cloud.State(); s.Hubs[0].Fault != sim.FaultKill || s.Devices[0].ConnectedHub != "hub-b" {
		t.Errorf("the cloud says %+v", s)
	}
	if got := b.text("#verdict-more"); got != "No sample is missing. Under attack: hub-a: killed." {
		t.Error(got)
	}
	b.until(`document.querySelector("#events").textContent.includes("The giant lizard: hub-a is killed")`)
	b.picture("simulator-lizard")

	b.click(place("hub-a") + " .heal")
	b.until(`document.querySelector('[data-hub="hub-a"]').dataset.fault === ""`)
	b.click(`[data-act="failback"]`)
	b.until(`document.querySelector('[data-hub="hub-a"]').dataset.devices === "1"`)

	for _, what := range []string{"block", "unblock"} { // by somebody else
		r, err := http.Post(cloud.Info().Control+"/api/devices/pump-1/"+what, "", nil)
		if err != nil || r.StatusCode != http.StatusNoContent {
			t.Fatal(r, err)
		}
		b.until(fmt.Sprintf(`document.querySelector("#rows .tag").hidden === %t`, what == "unblock"))
	}

	stop() // so that the numbers stand still
	b.until(`document.querySelector('#rows tr').children[1].textContent === "no link"`)
	ledger := cloud.Ledger("pump-1", false)
	b.until(fmt.Sprintf(`document.querySelector("#rows tr").children[2].textContent === Intl.NumberFormat("en").format(%d)`, ledger.Received))
	for i, want := range []int64{ledger.Received, ledger.Missing, ledger.Duplicates, ledger.Reordered} {
		if got := numberIn(t, b.text(fmt.Sprintf("#rows tr td:nth-child(%d)", i+3))); got != want {
			t.Errorf("column %d of the list says %d, the ledger %d", i+3, got, want)
		}
	}
	for id, want := range map[string]int64{"f-received": ledger.Received, "f-missing": ledger.Missing, "f-duplicates": ledger.Duplicates, "f-reordered": ledger.Reordered} {
		if got := numberIn(t, b.text("#"+id)); got != want {
			t.Errorf("%s is %d, the ledger says %d", id, got, want)
		}
	}
	if ledger.Missing != 0 || ledger.Received == 0 {
		t.Errorf("%+v", ledger)
	}
}

// TestPageComesBackWithItsServer stops the server under the page, and starts another one at the
// same port. The page says so meanwhile, and then shows the new cloud, without being loaded again.
func TestPageComesBackWithItsServer(t *testing.T) {
	cloud := startCloud(t, func(c *sim.Config) { c.Hubs = 3 })
	stop := startDevices(t, cloud, time.Second, "pump-1")
	control := strings.TrimPrefix(cloud.Info().Control, "http://")
	b := openPage(t, cloud.Info().Control+"/", desktop)
	b.until(`document.querySelector("#server-text").textContent === "Live" && document.querySelector('[data-hub="hub-a"]')?.dataset.devices === "1"`)
	value[bool](b, `window.sameDocument = true`)

	b.serverAway(true)
	stop()
	_ = cloud.Close()
	b.until(`document.querySelector("#server-text").textContent === "Server away" && !document.querySelector("#away").hidden`)
	b.click(place("hub-a") + " .attack")
	b.until(`!document.querySelector("#refused").hidden`)
	if got := b.text("#refused"); got != "The server does not answer." {
		t.Error(got)
	}

	cloud = startCloud(t, func(c *sim.Config) { c.ControlAddr = control })
	if got := strings.TrimPrefix(cloud.Info().Control, "http://"); got != control {
		t.Fatalf("the second simulator listens on %s, not on %s", got, control)
	}
	startDevices(t, cloud, time.Second, "pump-2")
	b.until(`document.querySelector("#server-text").textContent === "Live" && document.querySelector("#away").hidden`)
	b.until(`document.querySelector("#rows tr:not([hidden])")?.dataset.id === "pump-2" && document.querySelectorAll("#rows tr:not([hidden])").length === 1`)
	b.until(`document.querySelector('[data-hub="hub-a"]').dataset.devices === "1"`)
	b.click(place("hub-a") + " .attack")
	b.until(`document.querySelector('[data-hub="hub-b"]').dataset.devices === "1" && document.querySelector("#refused").hidden`)
	if got := value[string](b, `[...document.querySelectorAll("[data-hub], #keys li")].map((n) => n.dataset.hub ?? n.children[1].textContent).join()`); got != "hub-a,hub-b,hub-a,hub-b" {
		t.Errorf("the page has %s", got)
	}
	if !value[bool](b, `window.sameDocument === true`) {
		t.Error("the page was loaded again")
	}
}

// TestKeyboardAttacksAndHeals uses no mouse: Tab reaches every control, each shows that it has the
// focus, and Enter and Space press it.
func TestKeyboardAttacksAndHeals(t *testing.T) {
	cloud := startCloud(t, nil)
	startDevices(t, cloud, time.Second, "pump-1")
	b := openPage(t, cloud.Info().Control+"/", desktop)
	b.until(`document.querySelector('[data-hub="hub-a"]')?.dataset.devices === "1"`)
	reach := func(selector string) {
		t.Helper()
		for range 100 {
			b.keys(kb.Tab)
			if !value[bool](b, `document.activeElement === document.body || parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2`) {
				t.Errorf("%s does not show that it has the focus", value[string](b, `document.activeElement.outerHTML`))
			}
			if value[bool](b, fmt.Sprintf(`document.activeElement.matches(%s)`, quoted(selector))) {
				return
			}
		}
		t.Fatalf("Tab never reaches %s", selector)
	}
	reach(".skip")
	b.keys(kb.Enter)
	reach(place("hub-a") + " .attack")
	b.keys(kb.Enter)
	b.until(`document.querySelector('[data-hub="hub-b"]').dataset.devices === "1"`)
	b.until(`document.querySelector('[data-hub="hub-a"] .attack').getAttribute("aria-pressed") === "true"`)
	b.until(`document.querySelector("#live").textContent.includes("hub-a: killed")`) // a screen reader says it
	reach(place("hub-a") + " .heal")
	b.keys(" ")
	b.until(`document.querySelector('[data-hub="hub-a"]').dataset.fault === ""`)
	reach("#rows tr button")
	b.keys(kb.Enter)
	reach(`[data-act="failback"]`)
	b.keys(kb.Enter)
	b.until(`document.querySelector('[data-hub="hub-a"]').dataset.devices === "1"`)
	reach(`[data-act="block"]`)
	b.keys(kb.Enter)
	b.until(`document.querySelector("#device-where").textContent.includes("It is blocked.")`)
	if s := cloud.State(); !s.Devices[0].Blocked {
		t.Errorf("%+v", s.Devices)
	}
	reach(`[data-act="unblock"]`)
	b.keys(kb.Enter)
	b.until(`!document.querySelector("#device-where").textContent.includes("It is blocked.")`)
}

// TestEveryButtonCausesWhatItSays presses each button of an attack once, and again to end it.
func TestEveryButtonCausesWhatItSays(t *testing.T) {
	cloud := startCloud(t, nil)
	b := openPage(t, cloud.Info().Control+"/", desktop)
	b.until(`document.querySelectorAll("[data-hub]").length === 2`)
	for _, kind := range []string{sim.FaultKill, "kill-fin", sim.FaultBlackhole, sim.FaultSYNDrop, sim.FaultConnack3, sim.FaultConnack5, sim.FaultClose, sim.FaultSlow, sim.FaultThrottle, sim.FaultDropPuback} {
		button := place("hub-b") + fmt.Sprintf(` [data-kind=%q]`, kind)
		b.click(button)
		b.until(fmt.Sprintf(`document.querySelector(%s).getAttribute("aria-pressed") === "true" && document.querySelectorAll('[data-hub] [aria-pressed="true"]').length === 1`, quoted(button)))
		if got, want := string(cloud.State().Hubs[1].Fault), strings.TrimSuffix(kind, "-fin"); got != want {
			t.Errorf("%s causes %q", kind, got)
		}
		b.click(button)
		b.until(fmt.Sprintf(`document.querySelector(%s).getAttribute("aria-pressed") === "false"`, quoted(button)))
		if got := cloud.State().Hubs[1].Fault; got != "" {
			t.Errorf("%s is not ended: %q", kind, got)
		}
	}
	for _, kind := range []string{sim.DPSDown, sim.DPSBlackhole, sim.DPSDrop, sim.DPSThrottle, sim.DPSError500, sim.DPSStuck, sim.DPSSlow, sim.DPSUnauthorized} {
		button := fmt.Sprintf(`#dps [data-kind=%q]`, kind)
		b.click(button)
		b.until(fmt.Sprintf(`document.querySelector(%s).getAttribute("aria-pressed") === "true"`, quoted(button)))
		if got := string(cloud.State().DPS.Fault); got != kind {
			t.Errorf("%s causes %q", kind, got)
		}
	}
	b.click("#heal-all")
	b.until(`document.querySelector("#dps").dataset.fault === ""`)
}

// TestThousandDevicesMoveOnThePage kills the hub of a crowd of devices. The page counts each, its
// dots hop, and it has no more elements than before.
func TestThousandDevicesMoveOnThePage(t *testing.T) {
	many := 1000
	if racing.On { // TLS handshakes take ten times as long, and the browser is not seen by the detector
		many = 200
	}
	cloud := startCloud(t, nil)
	startDevices(t, cloud, 20*time.Second, names("node", many)...)
	b := openPage(t, cloud.Info().Control+"/", desktop)
	b.until(fmt.Sprintf(`document.querySelector('[data-hub="hub-a"]')?.dataset.devices === "%d"`, many))
	elements := value[int](b, `document.querySelectorAll("*").length`)
	if elements > 700 {
		t.Errorf("%d elements", elements)
	}
	b.picture("thousand-calm")
	value[bool](b, `{ window.hopped = 0; new MutationObserver(() => { hopped = Math.max(hopped, Number(dots.dataset.moving)); }).observe(dots, {attributes: true}); true }`)
	b.click(place("hub-a") + " .attack")
	b.until(fmt.Sprintf(`document.querySelector('[data-hub="hub-b"]').dataset.devices === "%d"`, many))
	b.until(`dots.dataset.moving === "0"`)
	if n := value[int](b, `hopped`); n < many/50 {
		t.Errorf("only %d dots hopped at the same time", n)
	}
	if more := value[int](b, `document.querySelectorAll("*").length`); more > elements+250 { // 60 events of three elements, and the ledger of the chosen device
		t.Errorf("%d elements, %d before", more, elements)
	}
	b.picture("thousand-moved")
}

// TestPageTellsThatTheEventsAreRefused opens the page when all places of readers are taken. It says
// so in the server's words, and goes on when a place is free.
func TestPageTellsThatTheEventsAreRefused(t *testing.T) {
	cloud := startCloud(t, nil)
	var readers []*http.Response
	for {
		r, err := http.Get(cloud.Info().Control + "/api/events")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Body.Close() })
		if r.StatusCode != http.StatusOK {
			break
		}
		readers = append(readers, r)
	}
	b := openPage(t, "about:blank", desktop)
	b.serverAway(true) // the refusal is logged as a failed request
	b.do(chromedp.Navigate(cloud.Info().Control + "/"))
	b.until(`!document.querySelector("#no-events").hidden && document.querySelector("#away").hidden`)
	if got := b.text("#no-events"); !strings.Contains(got, "readers have the events already") {
		t.Error(got)
	}
	_ = readers[0].Body.Close()
	b.until(`document.querySelector("#no-events").hidden && document.querySelector("#server-text").textContent === "Live"`)
}
