package drill

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

// TestScheduleSurvivesItsText draws schedules, writes them, and reads them again.
func TestScheduleSurvivesItsText(t *testing.T) {
	for seed := range uint64(500) {
		s := Draw(seed)
		got, err := ParseSchedule("# a comment\n\n" + s.String())
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("seed %d: %v\n%s\nbecame\n%s", seed, err, s, got)
		}
		if got := Draw(seed); !reflect.DeepEqual(got, s) {
			t.Fatalf("seed %d means\n%s\nand then\n%s", seed, s, got)
		}
	}
}

// TestSeedsKeepTheirMeaning: people write seeds down, so what a seed draws must not change.
func TestSeedsKeepTheirMeaning(t *testing.T) {
	sum := sha256.New()
	for seed := range uint64(1000) {
		fmt.Fprint(sum, Draw(seed))
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != "36da3dc926e845e9b4f5f5dcb09278505ecc8efe2e5f27a0872144563ed6e66d" {
		t.Errorf("the schedules of 1,000 seeds have the sum %s", got)
	}
}

// TestParseScheduleNamesTheBadLine gives lines that are no steps.
func TestParseScheduleNamesTheBadLine(t *testing.T) {
	for _, bad := range []string{
		"with {", "soon hub-a {}", "1s", "1s dance", "1s hub-a kill", "1s dps", "1s device", "1s device fly 2s", "1s cut hub-a", "1s storm many 1s",
		"1s storm 3", "1s weather 1s much 2s", "1s path dps portal", "1s delay 3s",
	} {
		if _, err := ParseSchedule("2s desired\n" + bad + "\n3s c2d"); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := (Schedule{Steps: []Step{{time.Second, "dance"}}}).Play(t.Context(), nil); !errors.Is(err, errStep) {
		t.Errorf("played: %v", err)
	}
}

// scribe is a stage that writes down what is done to it, and when. Its cloud refuses to delete.
type scribe struct {
	Cloud // nil: a schedule does not ask for more than the methods below
	began time.Time
	notes []string
}

func (s *scribe) note(format string, a ...any) {
	s.notes = append(s.notes, fmt.Sprintf("%v ", time.Since(s.began))+fmt.Sprintf(format, a...))
}

var errGone = errors.New("there is none")

func (s *scribe) FaultHub(_ context.Context, hub string, f sim.Fault) error {
	s.note("%s %s for %v", hub, f.Kind, f.Seconds)
	return nil
}

func (s *scribe) FaultDPS(_ context.Context, f sim.DPSFault) error {
	s.note("dps %s", f.Kind)
	return nil
}

func (s *scribe) Failover(_ context.Context, device string, ttl time.Duration) error {
	s.note("failover %s %v", device, ttl)
	return nil
}

func (s *scribe) Act(_ context.Context, device string, a Act) error {
	s.note("%s %s", a, device)
	if a == Delete {
		return errGone
	}
	return nil
}

func (s *scribe) Desire(_ context.Context, device string, patch json.RawMessage) error {
	s.note("desire %s %s", device, patch)
	return nil
}

func (s *scribe) Send(_ context.Context, device string, m sim.C2D) (string, error) {
	s.note("send %s %s", device, m.Body)
	return "", nil
}

func (s *scribe) Method(_ context.Context, device, name string, _ json.RawMessage) (sim.MethodResult, error) {
	s.note("method %s %s", device, name)
	return sim.MethodResult{}, nil
}

func (s *scribe) Cut(place string)         { s.note("cut %s", place) }
func (s *scribe) Mend(place string)        { s.note("mend %s", place) }
func (s *scribe) SetDelay(d time.Duration) { s.note("delay %v", d) }
func (s *scribe) ResetDelay()              { s.note("usual delay") }
func (s *scribe) SetWeather(jitter time.Duration, loss float64) {
	s.note("weather %v %v", jitter, loss)
}
func (s *scribe) SetPath(place, how string)    { s.note("path %s %q", place, how) }
func (s *scribe) HandOver()                    { s.note("handover") }
func (s *scribe) Start()                       { s.note("start") }
func (s *scribe) Stop()                        { s.note("stop") }
func (s *scribe) Crash(hard bool)              { s.note("crash, hard %v", hard) }
func (s *scribe) SetClock(ahead time.Duration) { s.note("clock %v", ahead) }
func (s *scribe) StartRival()                  { s.note("rival") }
func (s *scribe) StopRival()                   { s.note("no rival") }

// play plays a text in virtual time, and returns what the scribe has noted.
func play(t *testing.T, text string) (notes []string) {
	t.Helper()
	s, err := ParseSchedule(text)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := &scribe{began: time.Now()}
		err := s.Play(t.Context(), &Stage{Device: "d1", Cloud: w, Network: w, Process: w,
			Wait:    func(_ context.Context, at time.Time) error { time.Sleep(time.Until(at)); synctest.Wait(); return nil },
			Before:  func(string) {},
			Refused: func(err error) { w.note("refused: %v", err) },
		})
		if err != nil {
			t.Error(err)
		}
		synctest.Wait()
		notes = w.notes
	})
	return notes
}

// TestEveryStepBeginsAndEndsInTime plays each kind of step: the time of each call counts.
func TestEveryStepBeginsAndEndsInTime(t *testing.T) {
	for step, want := range map[string][]string{
		`hub-a {"kind":"kill","seconds":20}`:   {"1s hub-a kill for 20"},
		`dps {"kind":"throttle","seconds":10}`: {"1s dps throttle"},
		"device failover 30s":                  {"1s failover d1 30s"},
		"device failback 2s":                   {"1s failback d1"},
		"device disconnect 2s":                 {"1s disconnect d1"},
		"device delete 2s":                     {"1s delete d1", "1s refused: there is none"},
		"device disable 2s":                    {"1s disable d1", "3s enable d1"},
		"device identity 2s":                   {"1s disable-identity d1", "3s enable d1"},
		"device block 2s":                      {"1s block d1", "3s unblock d1"},
		"cut hub-b 4s":                         {"1s cut hub-b", "5s mend hub-b"},
		"delay 80ms 10s":                       {"1s delay 80ms", "11s usual delay"},
		"weather 500ms 0.05 20s":               {"1s weather 500ms 0.05", "21s weather 0s 0"},
		"handover 3s":                          {"1s handover", `4s path all ""`},
		"path dps portal 5s":                   {`1s path dps "portal"`, `6s path dps ""`},
		"storm 3 200ms":                        {"1s disconnect d1", "1.2s disconnect d1", "1.4s disconnect d1"},
		"rival 15s":                            {"1s rival", "16s no rival"},
		"crash rst 2s":                         {"1s crash, hard true", "3s start"},
		"crash fin 2s":                         {"1s crash, hard false", "3s start"},
		"restart 1s":                           {"1s stop", "2s start"},
		"clock -2h 20s":                        {"1s clock -2h0m0s", "21s clock 0s"},
		"desired":                              {`1s desire d1 {"fanSpeed":1000}`},
		"c2d":                                  {"1s send d1 true"},
		"method":                               {"1s method d1 setAlarm"},
	} {
		if got := play(t, "1s "+step); !slices.Equal(got, append([]string{"0s start"}, want...)) {
			t.Errorf("%s:\n%q\nnot\n%q", step, got, want)
		}
	}
}

// TestStepsOverlapInOrderOfTime also if the text has another order. A clock that is wrong from the
// beginning is so before the device starts.
func TestStepsOverlapInOrderOfTime(t *testing.T) {
	got := play(t, "3s cut dps 2s\n1s cut all 3s\n1s c2d\n0s clock 2h 1s")
	want := []string{"0s clock 2h0m0s", "0s start", "0s clock 2h0m0s", "1s cut all", "1s send d1 true", "1s clock 0s", "3s cut dps", "4s mend all", "5s mend dps"}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nnot\n%q", got, want)
	}
}

// TestPlayEndsWithItsContext before the next step.
func TestPlayEndsWithItsContext(t *testing.T) {
	s, err := ParseSchedule("1s desired\n2s c2d")
	if err != nil {
		t.Fatal(err)
	}
	w := &scribe{began: time.Now()}
	err = s.Play(t.Context(), &Stage{Device: "d1", Cloud: w, Process: w, Before: func(string) {},
		Wait: func(context.Context, time.Time) error { return context.Canceled }})
	if !errors.Is(err, context.Canceled) || len(w.notes) != 1 {
		t.Errorf("%v, %q", err, w.notes)
	}
}

// TestShrinkKeepsWhatTheFaultNeeds gives a schedule that fails because of two of its steps and one
// of its settings.
func TestShrinkKeepsWhatTheFaultNeeds(t *testing.T) {
	var s Schedule
	for seed := uint64(1); len(s.Steps) < 6; seed++ {
		s = Draw(seed)
	}
	s.With.Window = 8
	culprits := []string{s.Steps[1].What, s.Steps[4].What}
	played := 0
	small, again := Shrink(s, func(s Schedule) bool {
		played++
		has := func(what string) bool {
			return slices.ContainsFunc(s.Steps, func(st Step) bool { return st.What == what })
		}
		return has(culprits[0]) && has(culprits[1]) && s.With.Window == 8
	})
	three := 3
	if !again || len(small.Steps) != 2 || small.Steps[0].What != culprits[0] || small.Steps[1].What != culprits[1] ||
		!reflect.DeepEqual(small.With, Settings{Seed: s.With.Seed, Window: 8, RetryAfter: &three}) {
		t.Errorf("%v, after %d plays:\n%s", again, played, small)
	}
}

// TestShrinkBelievesInFaultsThatShowSometimes: a schedule passes only if it does so three times.
func TestShrinkBelievesInFaultsThatShowSometimes(t *testing.T) {
	played := 0
	small, again := Shrink(Draw(3), func(Schedule) bool { played++; return played%3 == 0 })
	if !again || len(small.Steps) != 0 {
		t.Errorf("%v:\n%s", again, small)
	}
	if _, again := Shrink(Draw(3), func(Schedule) bool { return false }); again {
		t.Error("what does not fail is said to fail")
	}
}
