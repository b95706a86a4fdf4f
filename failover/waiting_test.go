package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

// TestLongWaitForDPSIsReported: a session and Provision tell after ten seconds, and then more and
// more rarely, that they wait for DPS and in which step, until the answer comes. Provision ends
// exactly at its limit, in the middle of a registration too. An assignment says whether it is new.
func TestLongWaitForDPSIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		began := time.Now()
		observe := func(n Note) {
			switch n.Kind {
			case NoteWaiting:
				told = append(told, fmt.Sprintf("%v: %v in %s", time.Since(began), n.Took, n.Step))
			case NoteAssigned:
				told = append(told, fmt.Sprintf("%v: %s after %v, unchanged %v", time.Since(began), n.Host, n.Took, n.Unchanged))
			default:
			}
		}
		answer := func(after time.Duration, hub string) func(context.Context, dps.Request) (dps.Assignment, error) {
			return func(ctx context.Context, r dps.Request) (dps.Assignment, error) {
				r.Progress(dps.StepRegister)
				select {
				case <-time.After(15 * time.Second):
					r.Progress(dps.StepPoll)
				case <-ctx.Done():
					return dps.Assignment{}, ctx.Err()
				}
				select {
				case <-time.After(after - 15*time.Second):
					return dps.Assignment{Hub: hub}, nil
				case <-ctx.Done():
					return dps.Assignment{}, ctx.Err()
				}
			}
		}
		expect := func(what string, want ...string) {
			t.Helper()
			time.Sleep(time.Minute) // nothing comes behind
			if !slices.Equal(told, want) {
				t.Errorf("%s: told %q, not %q", what, told, want)
			}
			told, began = nil, time.Now()
		}
		if a, err := Provision(t.Context(), answer(25*time.Second, "hub-a"), time.Minute, Proof{}, observe); err != nil || a.Hub != "hub-a" {
			t.Error(a, err)
		}
		expect("Provision", "10s: 10s in register", "20s: 20s in poll")
		_, err := Provision(t.Context(), answer(time.Hour, "hub-a"), 55*time.Second, Proof{}, observe)
		if took := time.Since(began); !errors.Is(err, ErrUnreachable) || took != 55*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		expect("Provision beyond its limit", "10s: 10s in register", "20s: 20s in poll", "40s: 40s in poll")

		for cached, unchanged := range map[string]bool{"hub-a": true, "hub-b": false} {
			ctx, stop := context.WithCancel(t.Context())
			s := &Session[*standing]{
				Cached: &State{AssignedHub: cached},
				Dial: func(ctx context.Context, _ Target) (*standing, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				},
				Register: answer(25*time.Second, "hub-a"),
				Serve:    serving(func(context.Context, *standing) error { return nil }),
				Observe:  observe,
			}
			time.AfterFunc(30*time.Second, stop)
			s.Run(ctx)
			expect("cached "+cached, "10.25s: 10s in register", "20.25s: 20s in poll",
				fmt.Sprintf("25.25s: hub-a after 25s, unchanged %v", unchanged))
		}
	})
}

// play drives a machine, from a cached state, through an outage in which each dial and each
// registration fails in a given way. It returns when the machine dialled the assigned hub, and when
// it asked DPS.
func play(seed uint64, cached State, began time.Time, lasts time.Duration, dial, ask Event) (dials, asked []time.Duration) {
	m := NewMachine(Options{Rand: rand.New(rand.NewPCG(seed, 1))}, cached)
	now := began
	var do func(effects []Effect)
	do = func(effects []Effect) {
		for _, e := range effects {
			switch e := e.(type) {
			case Dial:
				dials = append(dials, now.Sub(began))
				f := dial.(DialFailed)
				f.ID = e.ID
				do(m.Step(now, f))
			case Register:
				asked = append(asked, now.Sub(began))
				f := ask.(RegisterFailed)
				f.ID = e.ID
				do(m.Step(now, f))
			default:
			}
		}
	}
	do(m.Step(now, Start{}))
	for next := m.NextWake(); !next.IsZero() && next.Sub(began) <= lasts; next = m.NextWake() {
		now = next
		do(m.Step(now, Tick{}))
	}
	return dials, asked
}

// TestWaitsOfAnOutageStayInTheirBounds checks the bounds of waits for a thousand seeds: between
// registrations that DPS refuses, with the budget and a retry-after, and between dials that the
// assigned hub refuses. It also checks that the devices of a fleet do not wait equally long.
func TestWaitsOfAnOutageStayInTheirBounds(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	home := State{AssignedHub: "hub-a", KnownHubs: []KnownHub{{Host: "hub-a", AssignedAt: began}}}
	for _, s := range []Signal{DPSError, DPSUnauthorized, DPSRefusedConnect, DPSBlocked, DPSNonsense} {
		moments := map[time.Duration]int{} // of the second and of the tenth registration, in steps of 100 ms
		for seed := range uint64(1000) {
			counted := s != DPSRefusedConnect
			_, asked := play(seed, State{}, began, 5*time.Minute, nil, RegisterFailed{Signal: s, RetryAfter: -1, Counted: counted})
			for i := 1; i < len(asked); i++ {
				wait := asked[i] - asked[i-1]
				least, most := 1500*time.Millisecond, 2500*time.Millisecond
				switch {
				case asked[i-1] >= time.Minute:
					most = max(4*time.Second, asked[i-1]-time.Minute)
					least, most = most/2, min(most, time.Minute)+7*time.Second
					least = min(least, 30*time.Second)
				case counted && i >= 5: // one back each 5 s
					most = 6*time.Second + 1
				}
				if wait < least || wait > most {
					t.Fatalf("%s, seed %d: %v after %v", s, seed, wait, asked[i-1])
				}
			}
			for i := range asked {
				if n := 1 + i; counted && n > 5+int(asked[i]/(5*time.Second)) {
					t.Fatalf("%s, seed %d: %d registrations within %v", s, seed, n, asked[i])
				}
			}
			moments[asked[1].Round(100*time.Millisecond)]++
			moments[time.Hour+asked[9].Round(100*time.Millisecond)]++
		}
		for at, n := range moments {
			if n > 300 {
				t.Errorf("%s: %d of 1000 devices ask within 100 ms (%v)", s, n, at)
			}
		}
	}
	for seed := range uint64(1000) {
		dials, _ := play(seed, home, began, 5*time.Minute, DialFailed{Signal: DialRefused}, RegisterFailed{Signal: DPSUnreachable, RetryAfter: -1})
		for i := 1; i < len(dials); i++ {
			most := 2 * time.Second
			if dials[i-1] >= time.Minute {
				most = 10 * time.Second
			}
			if wait := dials[i] - dials[i-1]; wait > most {
				t.Fatalf("seed %d: %v between two dials after %v", seed, wait, dials[i-1])
			}
		}
		if n := len(dials); n > 200 {
			t.Fatalf("seed %d: %d dials in five minutes", seed, n)
		}
		// A refusal that costs more is not repeated like that, and refused dials do not make its
		// waits longer.
		dials, _ = play(seed, home, began, 5*time.Minute, DialFailed{Signal: Connack3}, RegisterFailed{Signal: DPSUnreachable, RetryAfter: -1})
		if n := len(dials); n > 40 {
			t.Fatalf("seed %d: %d dials in five minutes that end with CONNACK 3", seed, n)
		}
	}
	for _, said := range []time.Duration{0, 7 * time.Second} {
		for _, s := range []Signal{DPSError, DPSUnauthorized, DPSThrottled, DPSConflict, DPSDropped} {
			_, asked := play(1, State{}, began, 20*time.Second, nil, RegisterFailed{Signal: s, RetryAfter: said, Counted: true})
			if wait := asked[1] - asked[0]; wait != said {
				t.Errorf("%s: DPS said %v, and was asked again after %v", s, said, wait)
			}
		}
	}
}

// TestOnlyALinkThatHoldsEndsTheLongWaits: a hub in trouble lets devices in for moments, so what it
// has cost before counts until a link has held for a minute and carried a PUBACK. The waits behind
// dials that are answered by a reset, which cost next to nothing, are short again after any link.
func TestOnlyALinkThatHoldsEndsTheLongWaits(t *testing.T) {
	for _, x := range []struct {
		failure  Signal
		lived    time.Duration
		acked    bool
		shortest time.Duration // of the longest waits that chance gives
		longest  time.Duration
	}{
		{Connack3, 10 * time.Second, true, 50 * time.Second, time.Minute},
		{Connack3, 59 * time.Second, true, 50 * time.Second, time.Minute},
		{Connack3, time.Minute, false, 50 * time.Second, time.Minute},
		{Connack3, time.Minute, true, 900 * time.Millisecond, time.Second},
		{DialRefused, 10 * time.Second, true, 400 * time.Millisecond, 500 * time.Millisecond},
	} {
		most := time.Duration(0)
		for seed := range uint64(200) {
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			well := now.Add(5 * time.Minute)
			m := NewMachine(Options{NoDPS: true, Rand: rand.New(rand.NewPCG(seed, 1))}, State{AssignedHub: "hub-a"})
			// tell returns the dial that follows, and how long the machine waits for it.
			tell := func(e Event) (dial int, wait time.Duration) {
				for {
					for _, e := range m.Step(now, e) {
						switch e := e.(type) {
						case Dial:
							dial = e.ID
						case Decided:
							wait = e.Wait
						default:
						}
					}
					if dial != 0 {
						return dial, wait
					}
					now, e = m.NextWake(), Tick{}
				}
			}
			dial, _ := tell(Start{})
			for now.Before(well) {
				dial, _ = tell(DialFailed{ID: dial, Signal: x.failure})
			}
			m.Step(now, Up{ID: dial})
			now = now.Add(x.lived)
			dial, _ = tell(Lost{ID: dial, Signal: LinkReset, Acked: x.acked})
			_, wait := tell(DialFailed{ID: dial, Signal: x.failure})
			most = max(most, wait)
		}
		if most < x.shortest || most > x.longest {
			t.Errorf("%+v: the longest wait of 200 is %v", x, most)
		}
	}
}

// TestRestartDoesNotMakeADeviceAskMoreOften: if DPS has refused a device for more than a minute,
// the device asks as slowly as before after every restart, because its state keeps that. A device
// that was refused for a shorter time, or was assigned since, begins anew.
func TestRestartDoesNotMakeADeviceAskMoreOften(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, v := range []struct {
		since time.Duration
		slow  bool
	}{{0, false}, {30 * time.Second, false}, {61 * time.Second, true}, {time.Hour, true}, {-time.Hour, false}} {
		s := State{RegistrationID: "dev", IDScope: "0ne"}
		if s.RefusedSince = began.Add(-v.since); v.since == 0 {
			s.RefusedSince = time.Time{}
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		s = State{}
		if err := json.Unmarshal(b, &s); err != nil || !s.RefusedSince.IsZero() != (v.since != 0) {
			t.Fatal(s, err)
		}
		first := map[time.Duration]bool{}
		for seed := range uint64(100) {
			_, asked := play(seed, s, began, 2*time.Minute, nil, RegisterFailed{Signal: DPSUnauthorized, RetryAfter: -1, Counted: true})
			first[asked[0].Round(time.Second)] = true
			if asked[0] > 5*time.Second || !v.slow && asked[0] > 0 {
				t.Fatalf("refused for %v: asked after %v", v.since, asked[0])
			}
			n := 0 // in the first minute
			for ; n < len(asked) && asked[n] < time.Minute; n++ {
			}
			if v.slow && n > 9 || !v.slow && n < 12 {
				t.Fatalf("refused for %v: asked %d times in a minute", v.since, n)
			}
			if v.since == time.Hour && asked[1]-asked[0] < 30*time.Second {
				t.Fatalf("refused for %v: asked again after %v", v.since, asked[1]-asked[0])
			}
		}
		if v.slow && len(first) < 5 {
			t.Errorf("a fleet that starts together asks at %v", first)
		}
	}
	s := State{RefusedSince: began}.WithAssignment(dps.Assignment{Hub: "hub-a"}, began)
	if !s.RefusedSince.IsZero() {
		t.Error("an assignment did not end it")
	}
}
