package graph

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

func TestMessagesComeOutInOrderAndAreAcknowledgedWhenTheyAreSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		out.shut = true
		g, stop := start(t, chain(in, out, mapFunc(func(m *node.Message) error { m.Payload = append([]byte("x"), m.Payload...); return nil })), Options{})
		defer stop()
		in.give(text("1"), text("2"), text("3"))
		synctest.Wait()
		equalAll(t, "got", out.bodies(), "x1", "x2", "x3")
		equal(t, "acknowledged", in.ackedCount(), 0)
		equal(t, "in flight", g.Status().InFlight, 3)
		out.open()
		equal(t, "acknowledged", in.ackedCount(), 3)
		s := g.Status()
		if s.In != 3 || s.Out != 3 || s.InFlight != 0 || s.InFlightBytes != 0 || s.State != Running || s.Text != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestAMessageForTwoDestinationsIsAcknowledgedWhenBothHaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, a, b := newHand(), newFar(), newFar()
		a.shut, b.shut = true, true
		p := Plan{
			Name: "g", Sources: []SourceNode{{"in", in}}, Destinations: []DestinationNode{{Name: "a", Destination: a}, {Name: "b", Destination: b}},
			Edges: []Edge{{From: "in", To: "a"}, {From: "in", To: "b"}},
		}
		_, stop := start(t, p, Options{})
		defer stop()
		in.give(text("1"))
		synctest.Wait()
		a.open()
		equal(t, "acknowledged", in.ackedCount(), 0)
		b.open()
		equal(t, "acknowledged", in.ackedCount(), 1)
		if x, y := a.ids()[0], b.ids()[0]; x == y || !strings.HasSuffix(x, "/0") || !strings.HasSuffix(y, "/1") {
			t.Errorf("ids %q and %q", x, y)
		}
	})
}

func TestBackPressureReachesTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newHand(), newFar()
		out.shut = true
		p := chain(in, out)
		p.Settings.MaxMessages = 10
		g, stop := start(t, p, Options{})
		defer stop()
		given := 0
		go func() {
			for i := range 100 {
				in.give(text(strconv.Itoa(i)))
				given++
			}
		}()
		synctest.Wait()
		equal(t, "in flight", g.Status().InFlight, 10)
		equal(t, "handed in", given, 11) // the source has one more in hand
		out.open()
		synctest.Wait()
		equal(t, "handed in", given, 100)
		equal(t, "acknowledged", in.ackedCount(), 100)
		for i, s := range out.bodies() {
			equal(t, "order", s, strconv.Itoa(i))
		}
	})
}
