package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/mqtt5"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// arrivedFlows is what arrives of a stream of 40 messages when all is well.
func arrivedFlows() (s stream, all []sim.Message) {
	s = stream{sources: 4, last: 40, base: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)}
	for g := uint64(1); g <= s.last; g++ {
		if !s.drops(g) {
			n := (g-1)/s.sources + 1
			all = append(all, flowMessage(fmt.Sprint(g), fmt.Sprintf(`{"s":%d,"n":%d,"twice":%d}`, (g-1)%s.sources, n, 2*n)))
		}
		if g%perWindow == 0 {
			all = append(all, windowMessage(s, g/perWindow-1, perWindow, nil))
		}
	}
	number(all)
	return s, all
}

func flowMessage(id, body string) sim.Message {
	return sim.Message{Hub: "hub-a", Properties: map[string]*string{"id": &id}, Body: []byte(body)}
}

// windowMessage is a window with count messages; places replaces some of what it says.
func windowMessage(s stream, at uint64, count int, places map[string]any) sim.Message {
	body := map[string]any{"count": count, "average": float64(at*perWindow) + (perWindow+1)/2.0}
	for i := range uint64(perWindow) {
		body[fmt.Sprintf("m%d", i)] = at*perWindow + i + 1
	}
	maps.Copy(body, places)
	text, _ := json.Marshal(body)
	return flowMessage("windows/second/"+s.base.Add(time.Duration(at+1)*window).Format(time.RFC3339Nano)+"/0", string(text))
}

// number gives messages the ids of an outbox.
func number(all []sim.Message) {
	for i := range all {
		all[i].Mid = fmt.Sprintf("0123456789abcdef-%d", i+1)
	}
}

// TestFlowsAreJudged judges a run, spoilt in each way that the judge must notice.
func TestFlowsAreJudged(t *testing.T) {
	is := func(m sim.Message, id string) bool { return *m.Properties["id"] == id }
	without := func(all []sim.Message, id string) []sim.Message {
		all = slices.DeleteFunc(all, func(m sim.Message) bool { return is(m, id) })
		number(all)
		return all
	}
	again := func(all []sim.Message, more ...sim.Message) []sim.Message {
		all = append(all, more...)
		number(all)
		return all
	}
	for want, spoil := range map[string]func(s stream, all []sim.Message) []sim.Message{
		"": func(_ stream, all []sim.Message) []sim.Message { return all },
		"1 of 36 messages never arrived; the first is 7": func(_ stream, all []sim.Message) []sim.Message { return without(all, "7") },
		"1 of 2 windows never arrived; the first is window 1": func(s stream, all []sim.Message) []sim.Message {
			return without(all, *windowMessage(s, 1, 20, nil).Properties["id"])
		},
		"windows 0 to 0 have not arrived before window 1": func(s stream, all []sim.Message) []sim.Message {
			return without(all, *windowMessage(s, 0, 20, nil).Properties["id"])
		},
		"samples never arrived at any hub": func(_ stream, all []sim.Message) []sim.Message { return slices.Delete(all, 3, 4) },
		"message 1 of source 1 arrived behind message 2": func(_ stream, all []sim.Message) []sim.Message {
			all[1].Body, all[5].Body, all[1].Properties, all[5].Properties = all[5].Body, all[1].Body, all[5].Properties, all[1].Properties
			return all
		},
		"although the filter drops it": func(_ stream, all []sim.Message) []sim.Message {
			return again(all, flowMessage("10", `{"s":1,"n":3,"twice":6}`))
		},
		"the map made": func(_ stream, all []sim.Message) []sim.Message {
			all[0].Body = []byte(`{"s":0,"n":1,"twice":3}`)
			return all
		},
		"came under the id": func(_ stream, all []sim.Message) []sim.Message {
			all[0].Properties["id"] = all[1].Properties["id"]
			return all
		},
		"was never published": func(_ stream, all []sim.Message) []sim.Message {
			return again(all, flowMessage("41", `{"s":0,"n":11,"twice":22}`))
		},
		"is of neither graph": func(_ stream, all []sim.Message) []sim.Message { return again(all, flowMessage("x", `"x"`)) },
		"window 0 lacks the messages 3": func(s stream, all []sim.Message) []sim.Message {
			return change(all, windowMessage(s, 0, 20, map[string]any{"m2": 1}))
		},
		"window 0 has the average 11": func(s stream, all []sim.Message) []sim.Message {
			return change(all, windowMessage(s, 0, 20, map[string]any{"average": 11}))
		},
		"a consumer cannot tell that they are one": func(s stream, all []sim.Message) []sim.Message {
			return again(all, windowMessage(s, 1, 21, nil))
		},
		"names two messages": func(s stream, all []sim.Message) []sim.Message {
			other := windowMessage(s, 1, 21, nil)
			other.Mid = all[len(all)-1].Mid
			return append(all, other)
		},
		"5 messages were mapped again, more than the 4": func(_ stream, all []sim.Message) []sim.Message { return again(all, all[:5]...) },
		"5 messages were counted again in windows, more than the 4": func(s stream, all []sim.Message) []sim.Message {
			return change(all, windowMessage(s, 1, 25, nil))
		},
		"2 windows were given out again, more than the 1": func(s stream, all []sim.Message) []sim.Message {
			return again(all, windowMessage(s, 0, 20, nil), windowMessage(s, 1, 20, nil))
		},
		"3 messages were sent twice by the link": func(_ stream, all []sim.Message) []sim.Message { return append(all, all[:3]...) },
	} {
		s, all := arrivedFlows()
		b := newFlowBook(s)
		for _, m := range spoil(s, all) {
			b.Add(m)
		}
		v := b.Conclude(allowance{resent: 2, broker: 4, toMapped: 4, toWindows: 4, replayed: 1})
		if want == "" && (v.Outcome != drill.Passed || !b.complete() || b.downstream() != 36) || want != "" && !said(v, want) {
			t.Errorf("want %q: %s %q, downstream %d", want, v.Outcome, v.Texts(), b.downstream())
		}
	}
}

// TestABrokerThatRepeatsTooMuchIsNoticed: hubhop that acknowledges nothing lets the broker send
// everything again.
func TestABrokerThatRepeatsTooMuchIsNoticed(t *testing.T) {
	for want, may := range map[string]allowance{
		"5 messages were sent again to mapped by the broker, more than the 4":  {broker: 4, toMapped: 5},
		"6 messages were sent again to windows by the broker, more than the 4": {broker: 4, toWindows: 6},
	} {
		s, all := arrivedFlows()
		b := newFlowBook(s)
		for _, m := range all {
			b.Add(m)
		}
		if v := b.Conclude(may); !said(v, want) {
			t.Errorf("want %q: %q", want, v.Texts())
		}
	}
}

// change puts another message in the place of the one with its id.
func change(all []sim.Message, m sim.Message) []sim.Message {
	for i := range all {
		if *all[i].Properties["id"] == *m.Properties["id"] {
			m.Mid = all[i].Mid
			all[i] = m
		}
	}
	return all
}

// TestGeneratorGoesBack: what was published behind a number is published again, and counted.
func TestGeneratorGoesBack(t *testing.T) {
	g := generator{next: 101, acked: 90, most: 100}
	g.back(80)
	if most, again := g.published(); g.next != 81 || g.acked != 80 || again != 20 || most != 100 {
		t.Errorf("next %d, acknowledged %d, again %d, most %d", g.next, g.acked, again, most)
	}
	g.back(95)
	if g.next != 81 {
		t.Errorf("it went forward, to %d", g.next)
	}
}

// TestRelayCountsAndAcknowledges plays broker and client on both sides of the relay: as it is, and
// crippled.
func TestRelayCountsAndAcknowledges(t *testing.T) {
	s := stream{sources: 4, last: 40, base: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)}
	for _, early := range []bool{false, true} {
		var c net.ListenConfig
		l, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		r, err := newRelay(t.Context(), s, l.Addr().String(), early)
		if err != nil {
			t.Fatal(err)
		}
		var d net.Dialer
		client, err := d.DialContext(t.Context(), "tcp", r.address())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Close() }()
		broker, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = broker.Close() }()
		hello := mqtt5.AppendConnect(nil, &mqtt5.Hello{ClientID: "hubhop-crash-1.windows.samples"})
		ack, ask := mqtt5.AppendPuback(nil, 77), mqtt5.AppendSubscribe(nil, 9, mqtt5.Filter{Topic: "b", QoS: 1})
		if _, err := client.Write(append(hello, ask...)); err != nil {
			t.Fatal(err)
		}
		var sent []byte
		for _, g := range []uint64{1, 2, 1, 1, 41, 41} { // 41 is behind the last
			m := s.message(g)
			sent = m.Append(sent, 77, false)
		}
		if _, err := broker.Write(sent); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("the client gets %x, %v", got, err)
		}
		if _, err := client.Write(ack); err != nil {
			t.Fatal(err)
		}
		all, own := r.again(windowsGraph)
		if none, _ := r.again(mappedGraph); none != 0 || all != 2 || (own == 2) != early {
			t.Errorf("early %v: %d messages were sent again, %d of them acknowledged; %d to the other graph", early, all, own, none)
		}
		// Early, the acknowledgement of the client goes nowhere; the request behind it arrives.
		want := map[string]int{string(hello): 1, string(ack): 1, string(ask): 1}
		if early {
			want[string(ack)] = 6
		}
		in, arrived := bufio.NewReader(broker), map[string]int{}
		for n := 0; n < want[string(ack)]+2; {
			p, _, err := readPacket(in)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p, ping) { // of the relay
				arrived[string(p)]++
				n++
			}
		}
		if !maps.Equal(arrived, want) {
			t.Errorf("early %v: the broker gets %v, not %v", early, arrived, want)
		}
	}
}

// TestTheRelayKnowsWhatTheBrokerHasRead: a sign of life says which acknowledgements the broker has
// read. The ones that hubhop asks for are passed on.
func TestTheRelayKnowsWhatTheBrokerHasRead(t *testing.T) {
	r := &relay{stream: stream{sources: 4, last: 40}}
	for i := range r.sent {
		r.sent[i].seen, r.sent[i].acked = make([]bool, 41), make([]bool, 41)
	}
	r.begin(mappedGraph)
	r.begin(windowsGraph)
	for id := range uint16(3) {
		r.came(windowsGraph, id+1, fmt.Appendf(nil, `{"g":%d}`, id+1))
	}
	unread := func(want int64) {
		t.Helper()
		if n := r.unread(); n != want {
			t.Errorf("%d messages are unread, not %d", n, want)
		}
	}
	unread(3)
	if r.asks(windowsGraph) {
		t.Error("it asks although nothing is acknowledged")
	}
	r.passed(windowsGraph, mqtt5.AppendPuback(nil, 1))
	r.passed(windowsGraph, mqtt5.AppendPuback(nil, 9)) // of no message
	r.passed(windowsGraph, ping)
	if r.asks(windowsGraph) || r.answered(windowsGraph) {
		t.Error("it takes the ping of hubhop for its own")
	}
	unread(3)
	if !r.asks(windowsGraph) || r.asks(windowsGraph) {
		t.Error("it does not ask once")
	}
	r.passed(windowsGraph, mqtt5.AppendPuback(nil, 2))
	if !r.answered(windowsGraph) || r.answered(windowsGraph) {
		t.Error("it does not know its own ping")
	}
	unread(2)
	r.begin(windowsGraph)
	unread(0)
}

// TestOnlyAPublishIsCounted gives packets that are cut off, or are no message with an
// acknowledgement.
func TestOnlyAPublishIsCounted(t *testing.T) {
	m := mqtt5.Message{Topic: "a", Payload: []byte("x"), QoS: 1, ContentType: "text/plain"}
	whole := m.Append(nil, 77, false)
	if id, payload, ok := publishOf(whole, 2); !ok || id != 77 || string(payload) != "x" {
		t.Errorf("%d %q %v", id, payload, ok)
	}
	for n := 2; n < len(whole)-1; n++ {
		if _, _, ok := publishOf(whole[:n], 2); ok {
			t.Errorf("%x is a message", whole[:n])
		}
	}
	m.QoS = 0
	for _, p := range [][]byte{m.Append(nil, 0, false), mqtt5.AppendPuback(nil, 77)} {
		if _, _, ok := publishOf(p, 2); ok {
			t.Errorf("%x is a message with an acknowledgement", p)
		}
	}
}

// TestACrippledRunFails runs the whole trial with a hubhop that loses what it has in hand when it
// is killed. A trial that does not notice that proves nothing.
func TestACrippledRunFails(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("make crash-flows runs on Linux alone, which has all of 127.0.0.0/8")
	}
	if _, err := mosquitto(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	bin := filepath.Join(t.TempDir(), "hubhop")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../..").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var out bytes.Buffer
	code := run([]string{"-hubhop", bin, "-dir", t.TempDir(), "-base-address", "127.53.0.1", "-messages", "6000", "-rate", "2000", "-kills", "3",
		"-broker-kills", "0", "-failovers", "0", "-full-disks", "0", "-acknowledge-early", "-recovery", "6s"}, &out)
	lost := regexp.MustCompile(`have not arrived before|never arrived|lacks the messages`)
	if code != exitFailed || !lost.MatchString(out.String()) {
		t.Errorf("exit code %d, not %d because something was lost\n%s", code, exitFailed, out.String())
	}
}
