package sample

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry"
)

// NewRoom returns a reader of a room that does not exist: temp from 20 to 120 and humidity from 0
// to 100, as JSON numbers of at most two decimals. Both wander around a middle with the time that
// has passed. rnd, which may be nil, is only used before NewRoom returns.
func NewRoom(rnd *rand.Rand) telemetry.Read {
	r := &room{
		temp:     walk{low: 20, high: 120, spread: 15, memory: 5 * time.Minute},
		humidity: walk{low: 0, high: 100, spread: 12, memory: 10 * time.Minute},
	}
	r.seed(rnd)
	return r.read
}

// room is one value, because a fleet has many rooms.
type room struct {
	chance
	temp, humidity walk
}

func (r *room) read(now time.Time) ([]byte, error) {
	rnd := r.rand()
	body := append([]byte(nil), `{"temp":`...)
	body = appendNumber(body, r.temp.at(now, rnd))
	body = append(body, `,"humidity":`...)
	body = appendNumber(body, r.humidity.at(now, rnd))
	return append(body, '}'), nil
}

// walk is a random walk that is pulled back to its middle (Ornstein and Uhlenbeck's). So its steps
// grow with the root of the time between them, and it neither runs away nor jumps.
type walk struct {
	low, high float64
	spread    float64       // standard deviation over a long time
	memory    time.Duration // how long it takes to forget where it was
	value     float64
	last      time.Time
}

func (w *walk) at(now time.Time, rnd *rand.Rand) float64 {
	middle := (w.low + w.high) / 2
	keep := 0.0 // the first value is anywhere
	if !w.last.IsZero() {
		keep = math.Exp(-max(0, now.Sub(w.last)).Seconds() / w.memory.Seconds())
	}
	w.last = now
	w.value = middle + (w.value-middle)*keep + w.spread*math.Sqrt(1-keep*keep)*rnd.NormFloat64()
	w.value = min(max(w.value, w.low), w.high)
	return w.value
}

// Battery returns a charge in percent, 0 to 100.
type Battery func(now time.Time) (float64, error)

// NewSimulatedBattery returns a battery that empties to about a fifth in a hundred minutes and is
// charged again in half an hour. It begins with at least 80 percent. rnd, which may be nil, is only
// used before NewSimulatedBattery returns.
func NewSimulatedBattery(rnd *rand.Rand) Battery {
	b := &cell{perMinute: -0.8}
	b.seed(rnd)
	b.level = 80 + 20*b.rand().Float64()
	return b.charge
}

// cell is a battery that does not exist.
type cell struct {
	chance
	level, perMinute float64
	last             time.Time
}

func (b *cell) charge(now time.Time) (float64, error) {
	if !b.last.IsZero() {
		b.level += b.perMinute * max(0, now.Sub(b.last)).Minutes() * (0.8 + 0.4*b.rand().Float64())
	}
	b.last = now
	if b.level <= 20 {
		b.perMinute = 2.7
	}
	if b.level >= 100 {
		b.perMinute = -0.8
	}
	b.level = min(max(b.level, 0), 100)
	return math.Round(b.level*100) / 100, nil
}

// chance is a reader's own generator. Readers run in different goroutines, so they cannot share
// one.
type chance struct{ pcg rand.PCG }

// seed seeds the generator from rnd, or from real chance if that is nil.
func (c *chance) seed(rnd *rand.Rand) {
	seed := rand.Uint64
	if rnd != nil {
		seed = rnd.Uint64
	}
	c.pcg.Seed(seed(), seed())
}

func (c *chance) rand() *rand.Rand { return rand.New(&c.pcg) }

// appendNumber writes a JSON number of at most two decimals.
func appendNumber(b []byte, v float64) []byte {
	return strconv.AppendFloat(b, math.Round(v*100)/100, 'f', -1, 64)
}
