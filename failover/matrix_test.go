package failover_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/failover"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// The matrix is written to docs/decisions.md. Each fault is really injected, in virtual time: the
// session and the packages hub and dps are the real ones, and the simulator is at the other end.
// The test expects of each fault a rule, its action, and what the device then does.
const matrixFile = "../docs/decisions.md"

const (
	hubA, hubB, dpsHost = "127.0.0.2", "127.0.0.3", "127.0.0.1"
	oneWay              = 5 * time.Millisecond // keeps two decisions from falling on the same moment
	watched             = time.Minute          // how long after its decision a device is watched
)

// fault is one row of the matrix.
type fault struct {
	rule   string
	action failover.Action
	name   string
	inject func(c *cell) // called after two minutes on hub-a; nil: the start alone shows the fault
	setup  func(c *cell) // before the start
}

// cell is one world in which one fault happens.
type cell struct {
	t       *testing.T
	net     *memnet.Net
	cloud   *sim.Sim
	config  sim.Config
	options failover.Options
	https   bool          // DPS is asked over HTTPS
	fresh   bool          // nothing is cached
	refused time.Time     // since when DPS had refused the device in the run before; zero: it had not
	ttl     time.Duration // of tokens
	learns  bool          // the device is told the time when it has failed for its clock
	renews  bool          // the device renews its token in time

	mu sync.Mutex
	// By host: what happens instead of a dial, and the time by which the device judges
	// certificates.
	dials  map[string]func(ctx context.Context) (net.Conn, error)
	clock  map[string]time.Time
	did    []deed
	script []string      // what the stand-in answers
	late   time.Duration // and how long it takes
	ends   []func()
	wg     sync.WaitGroup
}

// deed is a decision, or something that the device did.
type deed struct {
	at   time.Time
	rule failover.Rule // of a decision
	what string        // of everything else
}

var faults = []fault{
	{"H01", failover.Reconnect, "the hub closes the link (FIN) and lives on", func(c *cell) { c.disconnect() }, nil},
	{"H02", failover.Reconnect, "the hub is killed (RST)", func(c *cell) { c.hubFault(sim.FaultKill) }, nil},
	{"H03", failover.Reprovision, "the hub falls silent (black hole)", func(c *cell) { c.hubFault(sim.FaultBlackhole) }, nil},
	{"H04", failover.Reprovision, "the hub acknowledges nothing any more", func(c *cell) { c.hubFault(sim.FaultDropPuback) }, nil},
	{"H05", failover.Renew, "the token nears its end", func(*cell) {}, func(c *cell) { c.renews = true }},
	{"H06", failover.Reprovision, "the token ends and the hub closes the link", func(*cell) {}, func(c *cell) { c.config.SASGrace = 0 }},
	{"H07", failover.Reprovision, "the hub is killed: the next dial is refused", func(c *cell) { c.hubFault(sim.FaultKill) }, nil},
	{"H08", failover.Reprovision, "the hub accepts TCP and resets", func(c *cell) {
		c.instead(hubA, func(ctx context.Context) (net.Conn, error) {
			// The connection to DPS must be open before the reset, which otherwise may be heard at
			// one of two moments.
			time.Sleep(4 * oneWay)
			return c.net.DialContext(ctx, "tcp", hubA+":8883")
		})
		c.hubFault(sim.FaultClose)
	}, nil},
	{"H09", failover.Reprovision, "no answer to SYN for 10 s", func(c *cell) { c.hold(hubA); c.disconnect() }, nil},
	{"H10", failover.Reprovision, "the hub's name is gone (NXDOMAIN)", func(c *cell) {
		c.refuse(hubA, &net.DNSError{Err: "no such host", Name: hubA, IsNotFound: true})
		c.disconnect()
	}, nil},
	{"H11", failover.Reprovision, "no route", func(c *cell) { c.refuse(hubA, syscall.ENETUNREACH); c.disconnect() }, nil},
	{"H12", failover.BackOff, "another server's certificate", func(c *cell) { c.redirect(hubA, hubB+":8883"); c.disconnect() }, nil},
	{"H13", failover.BackOff, "the device believes it is 1970", func(c *cell) { c.believe(hubA, time.Unix(0, 0)); c.disconnect() }, nil},
	{"H27", failover.Renew, "the device believes it is 1970, and is told the time", func(c *cell) { c.believe(hubA, time.Unix(0, 0)); c.disconnect() },
		func(c *cell) { c.learns = true }},
	{"H14", failover.Sequential, "the hub closes on what comes before its CONNACK", func(c *cell) { c.replace(hubA); c.disconnect() }, nil},
	{"H15", failover.Reprovision, "the hub closes on a CONNECT that came alone", func(c *cell) { c.replace(hubA); c.disconnect() },
		func(c *cell) { c.options.Pipeline = failover.PipelineOff }},
	{"H16", failover.Reprovision, "TLS is up, then silence", func(c *cell) {
		c.hubFault(sim.FaultThrottle)
		c.disconnect()
		time.Sleep(100 * time.Millisecond)
		c.hubFault(sim.FaultBlackhole)
	}, nil},
	{"H17", failover.Reprovision, "CONNACK 3", func(c *cell) { c.hubFault(sim.FaultConnack3) }, nil},
	{"H17", failover.Reprovision, "moved by IoT Central: the identity is disabled on the old hub", func(c *cell) { c.must(c.cloud.Failover("dev-1", 0)) }, nil},
	{"H18", failover.FreshToken, "CONNACK 5", func(c *cell) { c.hubFault(sim.FaultConnack5) }, nil},
	{"H18", failover.FreshToken, "moved by plain DPS: the identity is deleted on the old hub", func(c *cell) { c.must(c.cloud.Failover("dev-1", 0)) },
		func(c *cell) { c.config.Move = sim.MoveDelete }},
	{"H19", failover.Reprovision, "CONNACK 5, also to a fresh token, while DPS stands by the hub", func(c *cell) {
		c.late = 900 * time.Millisecond // so that DPS has spoken
		c.replace(hubA, 0x20, 2, 0, 5)
		c.disconnect()
	}, nil},
	{"H20", failover.BackOff, "CONNACK 2", func(c *cell) { c.replace(hubA, 0x20, 2, 0, 2); c.disconnect() }, nil},
	{"H21", failover.BackOff, "SUBACK 0x80", func(c *cell) { c.replace(hubA, 0x20, 2, 0, 0, 0x90, 3, 0, 2, 0x80); c.disconnect() }, nil},
	{"H22", failover.BackOff, "PINGRESP instead of CONNACK", func(c *cell) { c.replace(hubA, 0xd0, 0); c.disconnect() }, nil},
	{"H23", failover.AskDPS, "no answer to SYN for 250 ms", func(c *cell) { c.hold(hubA); c.disconnect() }, nil},
	{"H24", failover.AskDPS, "TLS is up, CONNACK is 8 s late", func(c *cell) {
		c.must(c.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultThrottle, DelayMs: 8000}))
		c.disconnect()
	}, nil},
	{"H25", failover.SlowDown, "another client with the same identity connects, again and again, also after it was named", func(c *cell) { c.rival(100) }, nil},
	{"H26", failover.AskFirst, "another client with the same identity connects whenever this one is up", func(c *cell) { c.rival(4) }, nil},
	{"H99", failover.BackOff, "an error nobody has thought of", func(c *cell) { c.refuse(hubA, errors.New("the antenna has fallen off")); c.disconnect() }, nil},

	{"D01", failover.Move, "first start", nil, func(c *cell) { c.fresh = true }},
	{"D01", failover.Move, "the hub is killed and DPS names the other", func(c *cell) { c.hubFault(sim.FaultKill) }, nil},
	{"D02", failover.Join, "DPS names the hub whose SYN is not answered", func(c *cell) { c.hold(hubA); c.disconnect() }, nil},
	{"D03", failover.DialNow, "DPS does not know that the hub is dead", func(c *cell) {
		c.must(c.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill, DPSKnows: new(false)}))
	}, nil},
	{"D22", failover.DialNow, "another client with the same identity, and DPS stands by the hub", func(c *cell) { c.rival(4) }, nil},
	{"D04", failover.RetryDPS, "DPS refuses connections", func(c *cell) { c.dpsFault(sim.DPSDown) }, nil},
	{"D05", failover.RetryDPS, "DPS is silent", func(c *cell) { c.dpsFault(sim.DPSBlackhole) }, nil},
	{"D06", failover.RetryDPS, "DPS closes on what comes before its CONNACK", func(c *cell) { c.replace(dpsHost); c.hubFault(sim.FaultKill) }, nil},
	{"D07", failover.Reregister, "DPS drops the connection in the middle of a registration", func(c *cell) { c.dpsFault(sim.DPSDrop) }, nil},
	{"D08", failover.RetryAfter, "DPS answers 429, retry after 7 s", func(c *cell) {
		c.must(c.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSThrottle, RetryAfter: new(7)}))
		c.hubFault(sim.FaultKill)
	}, nil},
	{"D09", failover.BackOffKnown, "DPS answers 500", func(c *cell) { c.dpsFault(sim.DPSError500) }, nil},
	{"D10", failover.BackOffDPS, "DPS answers 401", func(c *cell) { c.dpsFault(sim.DPSUnauthorized) }, nil},
	{"D11", failover.BackOffDPS, "the operator blocks the device", func(c *cell) { c.must(c.cloud.Block("dev-1")) }, nil},
	{"D12", failover.BackOffDPS, "the enrollment is disabled", func(c *cell) { c.must(c.cloud.Disable("dev-1")) }, nil},
	{"D13", failover.BackOffDPS, "the enrollment is gone (404201)", func(c *cell) { c.says(404, `{"errorCode":404201}`) }, overHTTPS},
	{"D14", failover.BackOffDPS, "the allocation webhook fails (400207)", func(c *cell) {
		c.says(200, `{"status":"failed","registrationState":{"errorCode":400207}}`)
	}, overHTTPS},
	{"D15", failover.BackOffDPS, "DPS answers 400", func(c *cell) { c.says(400, `{"errorCode":400004}`) }, overHTTPS},
	{"D16", failover.Reregister, "DPS answers 409", func(c *cell) { c.says(409, `{"errorCode":409000}`) }, overHTTPS},
	{"D17", failover.Reregister, "DPS has forgotten the operation (404202)", func(c *cell) {
		c.says(202, `{"operationId":"4.x","status":"assigning"}`, 404, `{"errorCode":404202}`)
	}, overHTTPS},
	{"D18", failover.Reregister, "DPS is assigning for ever", func(c *cell) { c.dpsFault(sim.DPSStuck) }, nil},
	{"D19", failover.RetryDPS, "another server's certificate at DPS", func(c *cell) { c.redirect(dpsHost, hubB+":8883"); c.hubFault(sim.FaultKill) }, nil},
	{"D20", failover.RetryDPS, "the device believes it is 1970, at DPS", func(c *cell) { c.believe(dpsHost, time.Unix(0, 0)); c.hubFault(sim.FaultKill) }, nil},
	{"D23", failover.Reregister, "the device believes it is 1970, at DPS, and is told the time", func(c *cell) { c.believe(dpsHost, time.Unix(0, 0)); c.hubFault(sim.FaultKill) },
		func(c *cell) { c.learns = true }},
	{"D21", failover.BackOffDPS, "DPS answers CONNACK 5", func(c *cell) { c.replace(dpsHost, 0x20, 2, 0, 5); c.hubFault(sim.FaultKill) }, nil},
	{"D25", failover.BackOffDPS, "a start, and DPS had refused the device for two minutes before it", nil, func(c *cell) {
		c.fresh, c.refused = true, time.Now().Add(-2*time.Minute)
	}},
	{"D26", failover.BackOffDPS, "DPS names a device that no topic can carry", func(c *cell) {
		c.says(200, `{"status":"assigned","registrationState":{"assignedHub":"127.0.0.3","deviceId":"dev/#"}}`)
	}, overHTTPS},
}

func overHTTPS(c *cell) { c.https = true }

// flipped is another action for each, one that a device must not mistake for it.
var flipped = map[failover.Action]failover.Action{
	failover.Reconnect: failover.Reprovision, failover.Renew: failover.Reprovision, failover.Reprovision: failover.BackOff,
	failover.FreshToken: failover.BackOff, failover.Sequential: failover.BackOff, failover.AskDPS: failover.Join,
	failover.BackOff: failover.Reprovision, failover.Move: failover.Join, failover.Join: failover.Move, failover.DialNow: failover.Join,
	failover.RetryDPS: failover.BackOffDPS, failover.RetryAfter: failover.BackOffDPS, failover.Reregister: failover.BackOffKnown,
	failover.AskFirst: failover.Reconnect, failover.SlowDown: failover.DialNow, failover.BackOffDPS: failover.RetryDPS, failover.BackOffKnown: failover.BackOffDPS, failover.Stop: failover.BackOff,
}

// TestEachFaultLeadsToItsAction injects every fault. It holds the device to the rule, to its
// action, and to the document that says what the device then does. Then it injects the fault once
// more with another action in the row: if the device then did the same, the row would decide
// nothing.
func TestEachFaultLeadsToItsAction(t *testing.T) {
	var doc strings.Builder
	doc.WriteString("# What a device decides\n\n" +
		"A test writes this page: `go test ./failover -run " + t.Name() + " -rewrite`. It injects each of these faults into the real client,\n" +
		"with the simulator at the other end of an in-memory network, in virtual time. The device has been up on hub-a for two minutes and knows hub-b.\n" +
		"Each way over the network takes 5 ms, and chance always gives the longest wait. `hubhop explain` prints the rules and their reasons. The test\n" +
		"also gives each rule a wrong action, and checks that the device then does something else.\n\n" +
		"The table shows the first wait of each kind. These rules say how the waits go on:\n\n" +
		"* **A device has five registrations in hand, and gets one back every 5 s.** Chance adds up to a second to that, so that a fleet that began\n" +
		"  together does not ask together. DPS never gets more registrations, whatever the other rules say. All devices of one process together are\n" +
		"  held to `--dps-rate` (900 a minute, 100 at once). A connection to DPS that is refused, silent, or answered by a CONNACK other than 0 costs\n" +
		"  no registration.\n" +
		"* A `retry-after` of DPS is kept exactly, 0 included, up to 300 s.\n" +
		"* If an answer of DPS has no `retry-after` (5xx, 401, a refusing CONNACK and other refusals), the wait is 1.6 to 2 s in the first minute. Then it\n" +
		"  doubles, up to 60 s. Only an assignment, or a link that comes up, ends these waits; a restart does not.\n" +
		"* A hub that answers a dial by a reset is dialled again within 2 s in the first minute of the outage, and within 10 s later. After every\n" +
		"  other failure the longest wait doubles from 0.5 s to 60 s. Each wait is drawn evenly between 0 and the longest.\n" +
		"* The waits behind a hub's other failures go on growing until a link to it has held for a minute and carried a PUBACK, because a hub in trouble\n" +
		"  lets devices in for moments. So a device that was refused by CONNACK for five minutes and then worked for ten seconds dials at once when it\n" +
		"  loses its link, and if that fails too, waits up to 60 s again. The short waits behind a reset and behind DPS begin anew with each link.\n\n" +
		"The names that DPS gives are checked before they are used, because DPS may make mistakes. A hub must be a host name or an address, with or without\n" +
		"a port. A device id has 1 to 128 of the characters that IoT Hub allows, without `+` and `#`, which no topic can carry. An operation id has at most\n" +
		"256 letters, digits and `-._:~`. An answer with another name is refused (D26), and texts of DPS are cut before they are logged. No stranger can give\n" +
		"these names: TLS proves that the server has DPS's certificate. TLS also proves the hub: its server must have a certificate for the name that DPS\n" +
		"gave, from a root that this machine trusts.\n\n" +
		"| fault | rule | what the device sees | action | at once | and then, in the first minute |\n|---|---|---|---|---|---|\n")
	taken := map[failover.Action]map[failover.Action]int{}
	covered := map[string]bool{}
	results := make([]string, len(faults))
	t.Run("faults", func(t *testing.T) {
		for i, f := range faults {
			t.Run(f.rule+" "+f.name, func(t *testing.T) {
				rule, what, ok := play(t, f, failover.Rules)
				if !ok {
					t.Fatalf("%s was not applied; instead: %s", f.rule, what)
				}
				if rule.Action != f.action {
					t.Errorf("%s does %q, not %q", f.rule, rule.Action, f.action)
				}
				if taken[f.action] == nil {
					taken[f.action] = map[failover.Action]int{}
				}
				taken[f.action][rule.Action]++
				results[i] = fmt.Sprintf("| %s | %s | %s | %s | %s |\n", f.name, f.rule, rule.Signal, rule.Action, what)
				if covered[f.rule] {
					return
				}
				covered[f.rule] = true
				table := slices.Clone(failover.Rules)
				for i := range table {
					if table[i].ID == f.rule {
						table[i].Action = flipped[table[i].Action]
					}
				}
				if _, other, _ := play(t, f, table); other == what {
					t.Errorf("with the action of %s flipped from %q to %q the device does the same: %s", f.rule, f.action, flipped[f.action], what)
				}
			})
		}
	})
	for _, r := range failover.Rules {
		if !covered[r.ID] && r.Signal != failover.Stopping { // TestStoppingDoesNothing covers that
			t.Errorf("no fault shows %s", r.ID)
		}
	}
	if t.Failed() {
		return
	}
	doc.WriteString(strings.Join(results, ""))
	confusion(&doc, taken)
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(matrixFile, []byte(doc.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old, err := os.ReadFile(matrixFile); err != nil || string(old) != doc.String() {
		t.Errorf("%s says something else (%v); run with -rewrite and read the diff: %s", matrixFile, err, difference(string(old), doc.String()))
	}
}

func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return "\nwant " + w[i] + "\n got " + g[i]
		}
	}
	return "its length"
}

// confusion writes the actions expected against those taken.
func confusion(doc *strings.Builder, taken map[failover.Action]map[failover.Action]int) {
	var actions []failover.Action
	for a := failover.Reconnect; a <= failover.Stop; a++ {
		if taken[a] != nil {
			actions = append(actions, a)
		}
	}
	doc.WriteString("\nHow many faults led to each action: expected (down) and taken (across):\n\n| |")
	for _, a := range actions {
		fmt.Fprintf(doc, " %s |", a)
	}
	doc.WriteString("\n|---|" + strings.Repeat("---|", len(actions)) + "\n")
	for _, expected := range actions {
		fmt.Fprintf(doc, "| **%s** |", expected)
		for _, a := range actions {
			if n := taken[expected][a]; n > 0 {
				fmt.Fprintf(doc, " %d |", n)
			} else {
				doc.WriteString(" |")
			}
		}
		doc.WriteString("\n")
	}
}

// TestStoppingDoesNothing: a machine that hears that this side is stopping does nothing. No fault
// can show that row, because a session that stops tells its machine nothing any more.
func TestStoppingDoesNothing(t *testing.T) {
	for _, flip := range []bool{false, true} {
		table := slices.Clone(failover.Rules)
		for i := range table {
			if flip && table[i].Signal == failover.Stopping {
				table[i].Action = flipped[table[i].Action]
			}
		}
		m := failover.NewMachine(failover.Options{Table: table}, failover.State{AssignedHub: hubA})
		now := time.Unix(0, 0)
		m.Step(now, failover.Start{})
		if did := m.Step(now, failover.DialFailed{ID: 1, Signal: failover.Stopping}); (len(did) > 0) != flip {
			t.Errorf("flipped %v: %v", flip, did)
		}
	}
}

// play lets one fault happen. It says which rule was applied and what the device did about it. If
// the rule was not applied, it says what happened instead.
func play(t *testing.T, f fault, table []failover.Rule) (rule failover.Rule, what string, ok bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cell{t: t, net: memnet.New(), config: sim.DefaultConfig(), ttl: 5 * time.Minute,
			dials: map[string]func(context.Context) (net.Conn, error){}, clock: map[string]time.Time{}}
		c.config.Layout, c.config.Listen, c.config.RetryAfter = sim.LayoutLoopback, c.net.Listen, 0
		c.options = failover.Options{Table: table, Rand: rand.New(longest{})}
		if f.setup != nil {
			f.setup(c)
		}
		cloud, err := sim.New(c.config)
		c.must(err)
		c.cloud = cloud
		c.must(cloud.Start())
		defer func() { c.must(cloud.Close()) }()
		c.provision()
		c.net.SetDelay(oneWay)
		ctx, stop := context.WithCancel(t.Context())
		c.wg.Go(func() { c.session().Run(ctx) })
		defer func() {
			stop()
			for _, end := range c.ends {
				end()
			}
			c.wg.Wait()
		}()
		if f.inject != nil {
			time.Sleep(2 * time.Minute)
			c.forget()
			f.inject(c)
		}
		at, limit := time.Time{}, time.Now().Add(5*time.Minute)
		for at.IsZero() && time.Now().Before(limit) {
			time.Sleep(time.Second)
			at, rule = c.decided(f.rule)
		}
		if at.IsZero() {
			what = c.story()
			return
		}
		time.Sleep(time.Until(at.Add(watched)))
		synctest.Wait()
		what, ok = c.after(at), true
	})
	return rule, what, ok
}

// longest is chance that always lets a device wait as long as it may.
type longest struct{}

func (longest) Uint64() uint64 { return ^uint64(0) }

func (c *cell) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// provision makes the device known to DPS, and both hubs' addresses known to the device, as if it
// had run before.
func (c *cell) provision() {
	client := c.client(&tls.Config{RootCAs: c.cloud.CAPool()})
	client.Transport = dps.MQTT
	_, err := client.Register(c.t.Context(), dps.Request{})
	c.must(err)
}

func (c *cell) client(conf *tls.Config) *dps.Client {
	transport := dps.MQTT
	if c.https {
		transport = dps.HTTPS
	}
	return &dps.Client{Host: dpsHost, Transport: transport, IDScope: c.cloud.Info().IDScope, RegistrationID: "dev-1", Key: c.key(), TLS: conf,
		DialContext: c.dial}
}

func (c *cell) key() string { return base64.StdEncoding.EncodeToString(c.cloud.DeviceKey("dev-1")) }

// session is a whole client without an outbox: one message a second.
func (c *cell) session() *failover.Session[*hub.Link] {
	conf := func(host string) *tls.Config {
		return &tls.Config{RootCAs: c.cloud.CAPool(), Time: func() time.Time { return c.now(host) }}
	}
	if cert := c.standIn(); cert != nil {
		pool := c.cloud.CAPool()
		pool.AddCert(cert.Leaf)
		plain := conf
		conf = func(host string) *tls.Config { t := plain(host); t.RootCAs = pool; return t }
	}
	dialers := map[string]*hub.Dialer{}
	for _, host := range []string{hubA, hubB} {
		dialers[host] = &hub.Dialer{TLS: conf(host), DialContext: c.dial, Token: hub.KeyToken(time.Now, c.key(), c.ttl), KeepAlive: 20 * time.Second, C2D: true}
	}
	client := c.client(conf(dpsHost))
	state := failover.State{RegistrationID: "dev-1", RefusedSince: c.refused}
	if !c.fresh {
		now := time.Now()
		state.AssignedHub = hubA
		state.KnownHubs = []failover.KnownHub{{Host: hubA, AssignedAt: now}, {Host: hubB, AssignedAt: now}}
	}
	return &failover.Session[*hub.Link]{
		Options: c.options, Cached: &state,
		Dial: func(ctx context.Context, t failover.Target) (*hub.Link, error) {
			c.note(deed{what: "dial " + map[string]string{hubA: "hub-a", hubB: "hub-b"}[t.Host] + careful(t.Sequential && c.options.Pipeline != failover.PipelineOff)})
			l, err := dialers[t.Host].Dial(ctx, hub.Attempt{Host: t.Host, DeviceID: t.DeviceID, Sequential: t.Sequential, Progress: func(p hub.Phase) {
				if p == hub.PhaseTLS {
					t.TLSUp()
				}
			}})
			return l, c.learn(ctx, t.Host, err)
		},
		Register: func(ctx context.Context, r dps.Request) (dps.Assignment, error) {
			c.note(deed{what: "ask DPS" + careful(r.Sequential && c.options.Pipeline != failover.PipelineOff)})
			a, err := client.Register(ctx, r)
			return a, c.learn(ctx, dpsHost, err)
		},
		Open: client.Open,
		Serve: func(ctx context.Context, l *hub.Link, _ bool, over func()) func() error {
			ended := make(chan error, 1)
			go func() {
				ended <- c.serve(ctx, l)
				over()
			}()
			return func() error { return <-ended }
		},
		Observe: func(n failover.Note) {
			if n.Kind == failover.NoteDecision {
				c.note(deed{rule: n.Decision.Rule})
			}
		},
	}
}

// learn does what a device does when it has learnt the time.
func (c *cell) learn(ctx context.Context, host string, err error) error {
	if s := failover.Classify(ctx, err); !c.learns || s != failover.ClockOff && s != failover.DPSClock {
		return err
	}
	c.believe(host, time.Time{})
	return fmt.Errorf("%w (%w)", err, failover.ErrClockSet)
}

func careful(sequential bool) string {
	if sequential {
		return ", one packet at a time"
	}
	return ""
}

// nobody is a completion that nobody waits for.
type nobody struct{}

func (nobody) Done([]uint64, error) {}

// serves is a handler that hears of the renewal alone.
type serves struct{ renew chan struct{} }

func (*serves) FirstAck()          {}
func (*serves) Method(*hub.Method) {}
func (*serves) Desired()           {}
func (*serves) Messages()          {}
func (s *serves) Renew()           { close(s.renew) }

func (c *cell) serve(ctx context.Context, l *hub.Link) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	h := &serves{renew: make(chan struct{})}
	l.Serve(h)
	renew := h.renew
	if !c.renews {
		renew = nil
	}
	for {
		select {
		case <-tick.C:
			if _, err := l.Send([]message.Outgoing{{Message: message.Message{Body: []byte(`{}`)}}}, nobody{}); err != nil {
				return err
			}
		case <-renew:
			return &hub.Error{Phase: hub.PhaseSession, Host: l.Host(), Err: hub.ErrRenewal}
		case <-l.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *cell) note(d deed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.at = time.Now()
	c.did = append(c.did, d)
}

func (c *cell) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.did = nil
}

// decided says when a rule was first applied.
func (c *cell) decided(id string) (time.Time, failover.Rule) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.did {
		if d.rule.ID == id {
			return d.at, d.rule
		}
	}
	return time.Time{}, failover.Rule{}
}

// after tells what the device did at the moment of a decision, and when it next asked DPS and
// dialled each hub.
func (c *cell) after(at time.Time) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var once, next []string
	seen := map[string]bool{}
	for _, d := range c.did {
		after := d.at.Sub(at)
		switch {
		case d.rule.ID != "" || after < 0 || after > watched:
		case after == 0:
			once = append(once, d.what)
		case !seen[d.what]:
			seen[d.what] = true
			next = append(next, fmt.Sprintf("%s after %v", d.what, after.Round(time.Millisecond)))
		}
	}
	return list(once) + " | " + list(next)
}

func list(deeds []string) string {
	if len(deeds) == 0 {
		return "nothing"
	}
	slices.Sort(deeds) // what happens at one moment has no order
	return strings.Join(deeds, ", ")
}

// story is all that happened.
func (c *cell) story() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, d := range c.did[:min(len(c.did), 20)] {
		b.WriteString(d.rule.ID + d.what + "; ")
	}
	return b.String()
}

// What can be broken.

func (c *cell) disconnect() { c.must(c.cloud.Disconnect("dev-1")) }

func (c *cell) hubFault(kind string) {
	c.must(c.cloud.FaultHub("hub-a", sim.Fault{Kind: kind, DelayMs: 30_000}))
}

// dpsFault is one of DPS, which shows only when the device needs it.
func (c *cell) dpsFault(kind string) {
	c.must(c.cloud.FaultDPS(sim.DPSFault{Kind: kind}))
	c.hubFault(sim.FaultKill)
}

// dial is the network as the device sees it.
func (c *cell) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(addr)
	c.mu.Lock()
	instead := c.dials[host]
	c.mu.Unlock()
	if instead == nil {
		return c.net.DialContext(ctx, network, addr)
	}
	return instead(ctx)
}

func (c *cell) instead(host string, dial func(context.Context) (net.Conn, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dials[host] = dial
}

// refuse lets every dial fail, after a round trip.
func (c *cell) refuse(host string, err error) {
	c.instead(host, func(context.Context) (net.Conn, error) {
		time.Sleep(2 * oneWay)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	})
}

// rival connects with the device's identity so many times, each time two seconds after the device.
// The hub then closes the device's link.
func (c *cell) rival(times int) {
	d := &hub.Dialer{TLS: &tls.Config{RootCAs: c.cloud.CAPool()}, DialContext: c.net.DialContext, Token: hub.KeyToken(time.Now, c.key(), time.Hour), KeepAlive: time.Minute, C2D: true}
	ctx, stop := context.WithCancel(c.t.Context())
	c.ends = append(c.ends, stop)
	c.wg.Go(func() {
		for range times {
			l, err := d.Dial(ctx, hub.Attempt{Host: hubA, DeviceID: "dev-1"})
			if err != nil {
				return
			}
			select { // the device is back
			case <-l.Done():
			case <-ctx.Done():
			}
			l.Abort(nil)
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
				return
			}
		}
	})
}

// hold lets no dial be answered.
func (c *cell) hold(host string) {
	c.instead(host, func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	})
}

// redirect leads every dial to another server.
func (c *cell) redirect(host, addr string) {
	c.instead(host, func(ctx context.Context) (net.Conn, error) { return c.net.DialContext(ctx, "tcp", addr) })
}

// believe sets the device's clock, as far as a host's certificate is concerned.
func (c *cell) believe(host string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock[host] = now
}

func (c *cell) now(host string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.clock[host]; ok {
		return t
	}
	return time.Now()
}

// stand is the address of a server that answers what no simulator would.
const stand = "127.0.9.9:1"

// standIn opens it, with a certificate for all hosts, and returns that.
func (c *cell) standIn() *tls.Certificate {
	cert, _ := memnet.Certificate(c.t, hubA, dpsHost)
	l, err := c.net.Listen("tcp", stand)
	c.must(err)
	var mu sync.Mutex
	var conns []net.Conn
	ended := false
	c.ends = append(c.ends, func() {
		_ = l.Close()
		mu.Lock()
		defer mu.Unlock()
		ended = true
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	c.wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if conns = append(conns, raw); ended {
				_ = raw.Close()
			}
			mu.Unlock()
			c.wg.Go(func() {
				defer func() { _ = raw.Close() }()
				conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}})
				if conn.Handshake() == nil {
					c.answer(conn)
				}
				_ = conn.Close()
			})
		}
	})
	return &cert
}

// replace puts a stand-in in a host's place. The stand-in reads the first packets and answers, or
// closes the connection if it has no answer.
func (c *cell) replace(host string, answers ...byte) {
	c.redirect(host, stand)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.script = []string{string(answers)}
}

// says kills the hub, and lets DPS answer requests over HTTPS with these statuses and documents,
// one by one.
func (c *cell) says(answers ...any) {
	c.redirect(dpsHost, stand)
	c.mu.Lock()
	c.script = nil
	for i := 0; i < len(answers); i += 2 {
		after := ""
		if answers[i] == 202 {
			after = "Retry-After: 0\r\n"
		}
		c.script = append(c.script, fmt.Sprintf("HTTP/1.1 %d .\r\nContent-Length: %d\r\n%s\r\n%s", answers[i], len(answers[i+1].(string)), after, answers[i+1]))
	}
	c.mu.Unlock()
	c.hubFault(sim.FaultKill)
}

func (c *cell) answer(conn net.Conn) {
	c.mu.Lock()
	script := c.script
	c.mu.Unlock()
	for _, s := range script {
		if _, err := conn.Read(make([]byte, 8192)); err != nil || s == "" {
			return
		}
		time.Sleep(c.late)
		if _, err := conn.Write([]byte(s)); err != nil {
			return
		}
	}
	for buf := make([]byte, 8192); ; {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}
