//go:build linux

package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim"
)

// renewal lets many devices renew short tokens, and measures the longest time between two messages
// around each renewal, by the books of the hub. That is the gap between PUBACKs, and has the time
// between two samples in it. Then it does so again on a machine that has no time for them: that
// makes everything slower, and must cost nothing else.
func renewal(t *testing.T) []number {
	const what = "ms between two PUBACKs around a SAS renewal, a sample every 50 ms; floor: that, and a bare program's dial"
	idle := renewals(t)
	defer busy(t)()
	starved := renewals(t)
	load := fmt.Sprintf(", with %d busy processes for each core beside it", busyPerCore)
	n := len(idle.gaps)
	return []number{
		{what, n, idle.floor, idle.gaps, p99AtMost(300)},
		{"messages sent twice, and links lost, meanwhile", n, nil, figure{idle.twice + idle.lost}, atMost(0)},
		{what + load, len(starved.gaps), starved.floor, starved.gaps, p99AtMost(5000)},
		{"messages sent twice, and links lost, meanwhile" + load, len(starved.gaps), nil, figure{starved.twice + starved.lost}, atMost(0)},
	}
}

const busyPerCore = 4

// busy starts processes that take all the processor time they are given.
func busy(t *testing.T) (stop func()) {
	var all []*exec.Cmd
	for range busyPerCore * runtime.NumCPU() {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	return func() {
		for _, cmd := range all {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
}

type renewed struct {
	floor, gaps figure
	lost, twice float64
}

func renewals(t *testing.T) (all renewed) {
	const (
		devices = 100
		life    = 5 * time.Second
		every   = 50 * time.Millisecond
		least   = 1000
	)
	c := newCloud(t, 0)
	defer func() { _ = c.Close() }()
	id, key, host := c.device()
	runs := make([]*run, devices)
	for i := range runs {
		runs[i] = c.run(nil, func(d *plan) { d.Link.TokenLife, d.Sample.Interval = life, every })
		time.Sleep(apart)
	}
	count := func() (n int64) {
		for _, r := range runs {
			n += r.renewals.Load()
		}
		return n
	}
	for count() < least { // meanwhile, so that both meet the same machine
		took, err := floorHub(c, id, key, host, new(net.Dialer).DialContext)
		c.must(err)
		all.floor = append(all.floor, (every+took).Seconds()*1000)
		time.Sleep(every)
	}
	for _, r := range runs {
		r.stop()
		l := c.Ledger(r.id, true)
		if l.Duplicates > 0 {
			fmt.Fprintf(os.Stderr, "%s sent %d messages twice\n", r.id, l.Duplicates)
		}
		all.twice += float64(l.Duplicates)
		for range r.losses.Load() {
			all.lost++
			fmt.Fprintf(os.Stderr, "%s lost its link: %s\n", r.id, (<-r.lost).Error)
		}
		for range r.renewals.Load() {
			e := <-r.renewed
			all.gaps = append(all.gaps, around(l.Messages, e.Time.Add(-e.Outage), e.Time).Seconds()*1000)
		}
	}
	return all
}

// around is the longest time between two arrivals of which some lies between from and to.
func around(messages []sim.Message, from, to time.Time) (gap time.Duration) {
	for i, m := range messages[1:] {
		if before := messages[i].At; before.Before(to) && m.At.After(from) {
			gap = max(gap, m.At.Sub(before))
		}
	}
	return gap
}

func TestAround(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	var messages []sim.Message
	for _, ms := range []int{0, 100, 110, 150, 350, 351} {
		messages = append(messages, sim.Message{At: at(ms)})
	}
	for _, v := range []struct{ from, to, gap int }{{105, 108, 10}, {105, 120, 40}, {120, 160, 200}, {160, 170, 200}, {350, 351, 1}, {10, 400, 200}} {
		if got := around(messages, at(v.from), at(v.to)); got != time.Duration(v.gap)*time.Millisecond {
			t.Errorf("between %d and %d: %v, not %d ms", v.from, v.to, got, v.gap)
		}
	}
}
