package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// client is one column of a table.
type client struct {
	id     string
	name   string            // the head of its column
	about  string            // what it is, for the list under the table
	cannot map[string]string // scenarios it cannot express, and why
}

// scenario is one row of a table.
type scenario struct {
	id    string
	name  string
	proof string // what is compared on both sides
}

// table is a group of clients that are asked the same things. Every cell must turn green or have an
// explanation.
type table struct {
	title     string
	clients   []client
	scenarios []scenario
}

const (
	httpHasNone  = "The device API over HTTPS has requests and answers only, as in Azure: the SDK itself throws NotImplementedError."
	noLink       = "Over HTTPS there is no connection that could be lost, taken over or reported to the application."
	noDPS        = "The package has no DPS client; its devices are assigned by hand beforehand."
	noPackets    = "The client does not let the application choose this bit of MQTT."
	oneProcess   = "A direct method must be answered on the connection that it came over; mosquitto_sub cannot publish, and a mosquitto_pub beside it would take the connection over."
	noAnswer     = "Question and answer need one connection: mosquitto_sub cannot ask, mosquitto_pub does not listen, and mosquitto_rr refuses a response topic with a wildcard, which the answers of DPS and twins need. Its devices are assigned beforehand."
	fixedToken   = "The password is fixed on the command line; mosquitto cannot renew it. That an expired one is refused is proved in the row above."
	ownTokens    = "The package makes a token for an hour at every connect and has no option for it."
	completeOnly = "Over MQTT a message can only be completed, as in Azure."
	noModules    = "The package's module client takes its keys from an IoT Edge runtime only."
	namesVersion = "The package puts an api-version into every user name."
	reconnectsIt = "The package reconnects by itself without telling: two of them would take the connection from each other for ever."
)

var deviceTable = table{
	title: "Devices",
	scenarios: []scenario{
		{"provision-group", "provision, group key", "client: assigned, hub-a, its device id · simulator: registered, assigned, model id"},
		{"provision-secondary", "provision, secondary group key", "the same with the key derived from the other group key"},
		{"provision-individual", "provision, individual key", "client: a device id that is not the registration id · simulator: that device connects with the enrollment's key"},
		{"provision-x509-group", "provision, X.509 group", "client: assigned by a certificate of the device CA · simulator: the device connects with it"},
		{"provision-x509-individual", "provision, X.509 individual", "client: assigned by a self-signed certificate · simulator: the device connects with it"},
		{"provision-bad-key", "provision refused, bad key", "client: CONNECT passes, register is refused with 401 · simulator: no such device assigned"},
		{"provision-disabled", "provision refused, disabled", "client: status disabled · simulator: the device has not moved and is not enabled"},
		{"connect", "connect", "client: connected · simulator: connected to hub-a, exactly one connect"},
		{"oldest", "connect, no api-version", "client: a message is acknowledged under the user name {hub}/{device} · simulator: received; no methods"},
		{"x509", "connect, X.509", "client: a message is acknowledged · simulator: received from that device"},
		{"wrong-key", "refused, wrong key", "client: not authorised · simulator: never connected"},
		{"expired", "refused, expired token", "client: not authorised · simulator: never connected"},
		{"telemetry", "telemetry with properties", "client: acknowledged · simulator: body, message id, content type and a property with blanks and signs, once"},
		{"batch", "telemetry in a batch", "client: one request · simulator: every message with its own properties"},
		{"retain", "telemetry, retain", "client: acknowledged · simulator: property mqtt-retain, nothing retained"},
		{"will", "will", "client: killed · simulator: the will as a message with iothub-MessageType=Will; none after an orderly end"},
		{"qos2", "refused, QoS 2", "client: the connection is closed · simulator: the hub closed it"},
		{"twin-get", "twin get", "client: desired and reported with $version · simulator: the same document"},
		{"twin-patch", "twin patch", "client: accepted, a null deletes · simulator: reported properties and version"},
		{"twin-desired", "twin desired", "client: notified of the change only, with its version · simulator: desired properties"},
		{"method", "direct method", "client: payload as sent · simulator: the caller gets status and payload"},
		{"c2d", "cloud-to-device complete", "client: body and properties · simulator: completed"},
		{"c2d-offline", "cloud-to-device, was offline", "client: gets at the next connect what was sent meanwhile, in order · simulator: completed"},
		{"c2d-reject", "cloud-to-device reject, abandon", "client: rejects one, abandons one and completes it then · simulator: dead-lettered; completed at the second delivery"},
		{"takeover", "takeover", "client: the older connection is closed · simulator: the same, and one connection lives"},
		{"reconnect", "reconnect", "client: comes back by its own means, subscriptions work · simulator: two connects"},
		{"fault", "fault property", "client: AzIoTHub_FaultOperationType=KillTcp ends its connection before the PUBACK; it comes back (mosquitto_pub gives up) · simulator: the same"},
		{"disabled", "disabled device (3)", "client: service unavailable · simulator: refused with CONNACK 3 (HTTP 403); works again when enabled"},
		{"disabled-5", "disabled device (5)", "client: not authorised · simulator: refused with CONNACK 5 on request"},
		{"moved", "moved device, Central's way", "client: loses hub-a, is refused there, is assigned hub-b and sends · simulator: one message on each hub, no duplicate"},
		{"moved-deleted", "moved device, plain DPS's way", "the same, but hub-a does not know the device any more"},
		{"renewal", "token renewal", "client: outlives several tokens of seconds · simulator: connects again, loses no message"},
		{"module", "module", "client: telemetry, twin and method as a module · simulator: the module's own twin and messages"},
	},
	clients: []client{
		{id: "node-mqtt", name: "Node MQTT", about: "`azure-iot-device` %azure-iot-device% over `azure-iot-device-mqtt` %azure-iot-device-mqtt% (`Mqtt`), `azure-iot-provisioning-device` %azure-iot-provisioning-device% over `-mqtt` %azure-iot-provisioning-device-mqtt%, `azure-iot-security-symmetric-key` %azure-iot-security-symmetric-key%, `azure-iot-security-x509` %azure-iot-security-x509%",
			cannot: map[string]string{"oldest": namesVersion, "batch": "The SDK sends batches over HTTPS only.", "retain": noPackets, "will": noPackets, "qos2": noPackets, "c2d-reject": completeOnly}},
		{id: "node-ws", name: "Node WS", about: "the same packages, `MqttWs` on port 443 for DPS and hubs",
			cannot: map[string]string{"oldest": namesVersion, "batch": "The SDK sends batches over HTTPS only.", "retain": noPackets, "will": noPackets, "qos2": noPackets, "c2d-reject": completeOnly}},
		{id: "node-http", name: "Node HTTP", about: "the same packages over `azure-iot-device-http` %azure-iot-device-http% and `azure-iot-provisioning-device-http` %azure-iot-provisioning-device-http%",
			cannot: map[string]string{"oldest": namesVersion, "retain": noPackets, "will": noPackets, "qos2": noPackets, "twin-get": httpHasNone, "twin-patch": httpHasNone, "twin-desired": httpHasNone, "method": httpHasNone,
				"takeover": noLink, "reconnect": noLink, "fault": noLink, "disabled-5": "CONNACK codes are MQTT's; HTTPS answers 403 to a disabled device.", "module": "The SDK has no module client over HTTPS."}},
		{id: "go-iothub", name: "Go iothub", about: "`github.com/amenzhinsky/iothub` %github.com/amenzhinsky/iothub%, `iotdevice` over its MQTT transport",
			cannot: goIothubCannot},
		{id: "go-iothub-ws", name: "Go iothub WS", about: "the same with `WithWebSocket`", cannot: goIothubCannot},
		{id: "paho", name: "Go paho", about: "`github.com/eclipse/paho.mqtt.golang` %github.com/eclipse/paho.mqtt.golang%, topics and tokens written as the documentation says",
			cannot: map[string]string{"batch": "Batches are a thing of HTTPS.", "c2d-reject": completeOnly}},
		{id: "mosquitto", name: "mosquitto", about: "`mosquitto_pub` and `mosquitto_sub` of the system's package",
			cannot: map[string]string{"provision-group": noAnswer, "provision-secondary": noAnswer, "provision-individual": noAnswer, "provision-x509-group": noAnswer, "provision-x509-individual": noAnswer,
				"provision-bad-key": noAnswer, "provision-disabled": noAnswer, "twin-get": noAnswer, "twin-patch": noAnswer,
				"batch": "Batches are a thing of HTTPS.", "c2d-reject": completeOnly, "method": oneProcess, "renewal": fixedToken,
				"module": "It would be the paho column again: plain MQTT with another user name."}},
	},
}

var goIothubCannot = map[string]string{
	"provision-group": noDPS, "provision-secondary": noDPS, "provision-individual": noDPS, "provision-x509-group": noDPS,
	"provision-x509-individual": noDPS, "provision-bad-key": noDPS, "provision-disabled": noDPS,
	"oldest": namesVersion, "expired": ownTokens, "renewal": ownTokens, "batch": "Batches are a thing of HTTPS.", "retain": noPackets, "will": noPackets, "qos2": noPackets,
	"c2d-reject": completeOnly, "c2d-offline": "The package subscribes before its application can listen, and drops (and acknowledges) what arrives in between.", "module": noModules, "takeover": reconnectsIt,
}

const (
	amqpOnly  = "Azure has no REST for this: the package does it over AMQP, which the simulator does not speak."
	otherHalf = "The package is for the other service: hubs here, DPS there."
	notThere  = "The package has no call for it."
)

var serviceTable = table{
	title: "Services",
	scenarios: []scenario{
		{"registry", "devices: create, get, update, delete", "client: keys made by the hub, then gone · simulator: the device connects with them, then does not"},
		{"registry-conflict", "devices: created twice", "client: conflict, by its name · simulator: the first one stays as it is"},
		{"registry-list", "devices: list", "client: the devices it made, with their status · simulator: the same device is connected"},
		{"registry-disable", "devices: disable", "client: accepted · simulator: the device is dropped and refused until it is enabled"},
		{"registry-x509", "devices: thumbprint", "client: created with a thumbprint · simulator: a device with that certificate connects"},
		{"modules", "modules: create, get, delete", "client: its own keys · simulator: the module connects with them"},
		{"twin", "twin: get, update", "client: tags, desired, etag · simulator: the device is notified, its reports are seen"},
		{"query", "query", "client: SELECT with WHERE, page by page · simulator: exactly the devices that match"},
		{"method", "direct method", "client: status and payload · simulator: the device was asked with that payload"},
		{"method-offline", "direct method, device offline", "client: DeviceNotOnline, by its name"},
		{"statistics", "statistics", "client: counts that follow a new device"},
		{"purge", "purge of queued messages", "client: how many · simulator: the queue is empty"},
		{"c2d-send", "cloud-to-device send", ""},
		{"enrollment", "enrollment: create, get, update, delete", "client: etag, keys · simulator: a device registers by it, then does not"},
		{"enrollment-group", "enrollment group: create, get, delete", "the same for a group"},
		{"enrollment-query", "enrollments: query", "client: the enrollments it made, page by page"},
		{"attestation", "attestation mechanism", "client: the keys that it set"},
		{"registration", "registration record: get, query, delete", "client: hub and status · simulator: the same assignment"},
		{"bad-signature", "refused, wrong key", "client: unauthorised · simulator: nothing has changed"},
	},
	clients: []client{
		{id: "node-hub", name: "Node azure-iothub", about: "`azure-iothub` %azure-iothub%, its REST parts (`Registry`, `Twin`, `Query`, `Client.invokeDeviceMethod`)",
			cannot: map[string]string{"purge": notThere, "c2d-send": amqpOnly, "enrollment": otherHalf, "enrollment-group": otherHalf, "enrollment-query": otherHalf, "attestation": otherHalf, "registration": otherHalf}},
		{id: "node-dps", name: "Node provisioning-service", about: "`azure-iot-provisioning-service` %azure-iot-provisioning-service%",
			cannot: map[string]string{"registry": otherHalf, "registry-conflict": otherHalf, "registry-list": otherHalf, "registry-disable": otherHalf, "registry-x509": otherHalf, "modules": otherHalf,
				"twin": otherHalf, "query": otherHalf, "method": otherHalf, "method-offline": otherHalf, "statistics": otherHalf, "purge": otherHalf, "c2d-send": otherHalf}},
		{id: "go-service", name: "Go iotservice", about: "`github.com/amenzhinsky/iothub` %github.com/amenzhinsky/iothub%, `iotservice`",
			cannot: map[string]string{"c2d-send": amqpOnly, "enrollment": noDPSService, "enrollment-group": noDPSService, "enrollment-query": noDPSService, "attestation": noDPSService, "registration": noDPSService}},
	},
}

const noDPSService = "The package has nothing for DPS."

// docsTable is what docs/simulator.md tells a stranger to type.
var docsTable = table{
	title:   "The lines of simulator.md",
	clients: []client{{id: "docs", name: "as printed", about: "the code blocks of [simulator.md](simulator.md), cut out and run"}},
	scenarios: []scenario{
		{"js", "Node.js", "exit code 0 · simulator: one message of that device"},
		{"sh", "shell", "the same, with curl, openssl and mosquitto_pub"},
	},
}

var tables = []table{deviceTable, serviceTable, azTable, docsTable}

// verdict compares what should have run with what has, and says every way in which they differ.
func (t table) verdict(all []result) (wrong []string) {
	seen := map[[2]string]int{}
	for _, r := range all {
		seen[[2]string{r.Client, r.Scenario}]++
		if !r.OK {
			wrong = append(wrong, fmt.Sprintf("%s, %s: %s", r.Client, r.Scenario, firstLine(r.Why)))
		}
	}
	for _, c := range t.clients {
		for _, s := range t.scenarios {
			_, excused := c.cannot[s.id]
			n := seen[[2]string{c.id, s.id}]
			delete(seen, [2]string{c.id, s.id})
			switch {
			case excused && n > 0:
				wrong = append(wrong, fmt.Sprintf("%s, %s: it runs, although it is said that it cannot", c.id, s.id))
			case !excused && n == 0:
				wrong = append(wrong, fmt.Sprintf("%s, %s: it did not run", c.id, s.id))
			case n > 1:
				wrong = append(wrong, fmt.Sprintf("%s, %s: it ran %d times", c.id, s.id, n))
			}
		}
		for id := range c.cannot {
			if !slices.ContainsFunc(t.scenarios, func(s scenario) bool { return s.id == id }) {
				wrong = append(wrong, fmt.Sprintf("%s, %s: there is no such scenario", c.id, id))
			}
		}
	}
	for cell := range seen {
		wrong = append(wrong, fmt.Sprintf("%s, %s: nobody expected it", cell[0], cell[1]))
	}
	slices.Sort(wrong)
	return wrong
}

// of picks a table's results.
func (t table) of(all []result) (mine []result) {
	for _, r := range all {
		if slices.ContainsFunc(t.clients, func(c client) bool { return c.id == r.Client }) {
			mine = append(mine, r)
		}
	}
	return mine
}

// footnotes numbers explanations in the order of their first use.
type footnotes []string

func (f *footnotes) number(text string) int {
	i := slices.Index(*f, text)
	if i < 0 {
		i = len(*f)
		*f = append(*f, text)
	}
	return i + 1
}

// markdown renders the table. What changes from run to run stays out of it.
func (t table) markdown(all []result, notes *footnotes) string {
	green := map[[2]string]bool{}
	for _, r := range all {
		if r.OK {
			green[[2]string{r.Client, r.Scenario}] = true
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n| scenario |", t.title)
	for _, c := range t.clients {
		fmt.Fprintf(&b, " %s |", c.name)
	}
	b.WriteString("\n|---|" + strings.Repeat(":-:|", len(t.clients)) + "\n")
	for _, s := range t.scenarios {
		fmt.Fprintf(&b, "| %s |", s.name)
		for _, c := range t.clients {
			why, excused := c.cannot[s.id]
			switch {
			case excused:
				fmt.Fprintf(&b, " –<sup>%d</sup> |", notes.number(why))
			case green[[2]string{c.id, s.id}]:
				b.WriteString(" ok |")
			default:
				b.WriteString(" **RED** |")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// placeholder is where a version belongs: %package%.
var placeholder = regexp.MustCompile(`%[^%]+%`)

// document is docs/conformance.md.
func document(all []result, versions map[string]string) string {
	var b strings.Builder
	var notes footnotes
	b.WriteString(`# Conformance

Written by ` + "`make conformance`" + `, which starts fresh simulators in layout ` + "`loopback`" + ` and runs clients against them that nobody here
wrote, unmodified, at pinned versions. **ok**: the client saw what it should, and so did the simulator's ledger, state and events. **–**: the client cannot
express it; the number says why. The run fails on anything else, also on a scenario that did not run.

`)
	for _, t := range tables {
		b.WriteString(t.markdown(all, &notes) + "\n")
	}
	b.WriteString("## Why a client cannot\n\n")
	for i, n := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, n)
	}
	b.WriteString("\n## The clients\n\n")
	for _, t := range tables {
		for _, c := range t.clients {
			about := placeholder.ReplaceAllStringFunc(c.about, func(m string) string { return versions[strings.Trim(m, "%")] })
			fmt.Fprintf(&b, "- **%s**: %s\n", c.name, about)
		}
	}
	b.WriteString("\n## What is compared\n\n| scenario | on both sides |\n|---|---|\n")
	for _, t := range tables {
		for _, s := range t.scenarios {
			if s.proof != "" {
				fmt.Fprintf(&b, "| %s | %s |\n", s.name, s.proof)
			}
		}
	}
	return b.String()
}

// pinned reads the versions of all clients from the files that pin them.
func pinned(packageJSON, goMod string) (map[string]string, error) {
	b, err := os.ReadFile(packageJSON)
	if err != nil {
		return nil, err
	}
	var p struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	m, err := os.ReadFile(goMod)
	if err != nil {
		return nil, err
	}
	for _, line := range regexp.MustCompile(`(?m)^\s*(\S+\.\S+/\S+) (v\S+)`).FindAllStringSubmatch(string(m), -1) {
		p.Dependencies[line[1]] = line[2]
	}
	return p.Dependencies, nil
}
