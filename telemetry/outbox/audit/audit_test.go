package audit

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

func openBox(t *testing.T, dir string, o outbox.Options) *outbox.Box {
	t.Helper()
	b, err := outbox.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func closeBox(t *testing.T, b *outbox.Box) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// appendSome appends n messages, and returns all that are queued.
func appendSome(t *testing.T, b *outbox.Box, n int) []outbox.Record {
	t.Helper()
	if err := b.Append(t.Context(), make([]message.Message, n)...); err != nil {
		t.Fatal(err)
	}
	batch := new(outbox.Batch)
	t.Cleanup(batch.Release)
	records, err := b.Read(batch, n, 1<<20, outbox.Part{})
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func ackAll(t *testing.T, b *outbox.Box, records []outbox.Record) {
	t.Helper()
	for _, r := range records {
		if err := b.Ack(r.Pos); err != nil {
			t.Fatal(err)
		}
	}
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// TestAudit gives ledgers and looks at the verdict.
func TestAudit(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, outbox.Options{})
	r := appendSome(t, b, 20)
	ackAll(t, b, r[:10])
	if err := b.Quarantine(r[10].Pos, errors.New("poison")); err != nil { // 11; 12 to 20 are queued
		t.Fatal(err)
	}
	box, _, _ := outbox.SplitID(r[0].ID)
	closeBox(t, b)
	other := "00000000000000aa"
	type arrival struct{ id, gap string }
	ids := func(box string, seqs ...int) (all []arrival) {
		for _, n := range seqs {
			all = append(all, arrival{fmt.Sprintf("%s-%d", box, n), ""})
		}
		return all
	}
	all := ids(box, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	for name, v := range map[string]struct {
		arrived []arrival
		partial bool
		want    string // from-last arrived/distinct queued announced(aside) lost duplicated reordered, ids
	}{
		"all":                     {all, false, "1-20 10/10 9 1(1) 0 0 0 [] [11] [] []"},
		"nothing":                 {nil, false, "1-20 0/0 9 1(1) 10 0 0 [1..10] [11] [] []"},
		"a hole":                  {append(all[:2:2], all[5:]...), false, "1-20 7/7 9 1(1) 3 0 0 [3..5] [11] [] []"},
		"a hole that is told":     {append(all[:2:2], append([]arrival{{box + "-6", "3-5"}}, all[6:]...)...), false, "1-20 7/7 9 4(1) 0 0 0 [] [3..5 11] [] []"},
		"told, and arrived":       {append(all[:9:9], arrival{box + "-10", "3-5"}), false, "1-20 10/10 9 1(1) 0 0 0 [] [11] [] []"},
		"doubled":                 {append(all[:10:10], all[3], all[3]), false, "1-20 12/10 9 1(1) 0 2 0 [] [11] [4 4] []"},
		"exchanged":               {append(append(all[:3:3], all[4], all[3]), all[5:]...), false, "1-20 10/10 9 1(1) 0 0 1 [] [11] [] [4]"},
		"queued, and arrived":     {append(all[:10:10], ids(box, 12, 13)...), false, "1-20 12/12 7 1(1) 0 0 0 [] [11] [] []"},
		"beyond the last":         {append(all[:10:10], ids(box, 23)...), false, "1-20 11/11 9 1(1) 0 0 0 [] [11] [] [] reused 23"},
		"its beginning is gone":   {all[4:], false, "1-20 6/6 9 1(1) 4 0 0 [1..4] [11] [] []"},
		"and that is known":       {all[4:], true, "5-20 6/6 9 1(1) 0 0 0 [] [11] [] []"},
		"nothing, and is known":   {nil, true, "21-20 0/0 0 0(0) 0 0 0 [] [] [] []"},
		"no ids":                  {append(all[:10:10], arrival{"4711", ""}, arrival{}), false, "1-20 10/10 9 1(1) 0 0 0 [] [11] [] []"},
		"another outbox is whole": {append(all[:10:10], ids(other, 1, 2)...), false, "1-20 10/10 9 1(1) 0 0 0 [] [11] [] []"},
	} {
		t.Run(name, func(t *testing.T) {
			var a Audit
			if err := a.Holds(dir); err != nil {
				t.Fatal(err)
			}
			for _, m := range v.arrived {
				a.Arrived(m.id, m.gap)
			}
			if err := a.Holds(dir); err != nil {
				t.Fatal(err)
			}
			accounts := a.Accounts(v.partial)
			x := accounts[0]
			got := fmt.Sprintf("%d-%d %d/%d %d %d(%d) %d %d %d %v %v %v %v", x.From, x.Last, x.Arrived, x.Distinct, x.Queued, x.Announced, x.SetAside,
				x.Lost, x.Duplicated, x.Reordered, x.LostIDs, x.GapIDs, x.DoubleIDs, x.LateIDs)
			got = strings.ReplaceAll(got, box+"-", "")
			if x.Reused > 0 {
				got += fmt.Sprintf(" reused %d", x.Reused)
			}
			if x.Outbox != box || !x.Current {
				t.Errorf("the first account is that of %s", x.Outbox)
			}
			equal(t, "account", got, v.want)
			for _, x := range accounts[1:] {
				if x.Outbox != other || x.Lost != 0 || x.Distinct != 2 {
					t.Errorf("the other one: %+v", x)
				}
			}
		})
	}
}

// TestAuditOfAStaleLedger: messages that a running device has sent since the ledger was written are
// in flight. A hole below them is lost all the same. Without a process that has the outbox open, or
// with a ledger that is not older, they are lost too.
func TestAuditOfAStaleLedger(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir, outbox.Options{})
	ackAll(t, b, appendSome(t, b, 20)[:15])
	verify := func(stale bool) string {
		a := Audit{Stale: stale}
		if err := a.Holds(dir); err != nil {
			t.Fatal(err)
		}
		for _, seq := range []int{1, 2, 3, 5, 6, 7, 8, 9, 10} { // it was written when 11 to 15 had not arrived; 4 is lost
			a.Arrived(fmt.Sprintf("%s-%d", b.ID(), seq), "")
		}
		x := a.Accounts(false)[0]
		return fmt.Sprintf("queued %d, announced %d, in flight %d, lost %d %d", x.Queued, x.Announced, x.InFlight, x.Lost, len(x.LostIDs))
	}
	equal(t, "running, stale", verify(true), "queued 5, announced 0, in flight 5, lost 1 1")
	equal(t, "running, live", verify(false), "queued 5, announced 0, in flight 0, lost 6 2")
	closeBox(t, b)
	equal(t, "stopped", verify(true), "queued 5, announced 0, in flight 0, lost 6 2")
}
