package sample

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"runtime"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/sensors"

	"github.com/hubhop-iot/hubhop/telemetry"
)

var errNoReading = errors.New("this machine gives no reading at all")

// NewHost returns a reader of the machine that it runs on:
//
//   - cpu: how busy all processors were since the reading before, in percent
//   - memory: how much of it is in use, in percent
//   - load1: processes that ran or waited to run, the mean of a minute; not on Windows, which does
//     not count them
//   - temp: in °C, of the processor if a sensor says so, else the highest
//
// What the machine does not tell is left out, never made up. A reading with nothing in it is an
// error. The first reading takes up to a quarter of a second, because a processor is busy only over
// a time.
func NewHost() telemetry.Read {
	h := &host{processor: processor, memory: memory, load: load1, temperatures: temperatures, settle: 250 * time.Millisecond}
	h.before, _ = h.processor()
	h.since = time.Now()
	return h.read
}

// sensorTries is how often a machine is asked for its temperature before it counts as a machine
// without a sensor. On some systems this question takes longer than all others together.
const sensorTries = 3

// askTime bounds one question to the machine.
const askTime = 2 * time.Second

// host holds the questions as functions, so that a test can play a machine without sensors.
type host struct {
	processor    func() (times, error)
	memory       func() (float64, error)
	load         func() (float64, error)
	temperatures func() ([]reading, error)
	settle       time.Duration

	before   times
	since    time.Time // when the first times were taken
	percent  *float64  // the last figure, for readings closer than the clock of the system counts
	failures int
}

// times are seconds of all processors together since the machine started.
type times struct{ busy, total float64 }

// reading is one temperature sensor in °C.
type reading struct {
	name  string
	value float64
}

// machine is the body of a sample.
type machine struct {
	CPU    *float64 `json:"cpu,omitempty"`
	Memory *float64 `json:"memory,omitempty"`
	Load1  *float64 `json:"load1,omitempty"`
	Temp   *float64 `json:"temp,omitempty"`
}

func (h *host) read(time.Time) ([]byte, error) {
	m := machine{CPU: h.cpu(), Memory: figure(h.memory()), Load1: figure(h.load()), Temp: h.temp()}
	if m == (machine{}) {
		return nil, errNoReading
	}
	return json.Marshal(m)
}

// figure rounds to two decimals. It returns nil after an error, and for a number that JSON does not
// have.
func figure(v float64, err error) *float64 {
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	v = math.Round(v*100) / 100
	return &v
}

func (h *host) cpu() *float64 {
	if early := h.settle - time.Since(h.since); h.percent == nil && early > 0 {
		<-time.After(early)
	}
	now, err := h.processor()
	if err != nil {
		return nil
	}
	if all := now.total - h.before.total; all > 0 {
		h.percent = figure(min(max(100*(now.busy-h.before.busy)/all, 0), 100), nil)
		h.before = now
	}
	return h.percent
}

// temp returns the processor's temperature, else the highest one. It ignores absurd values, which
// come from sensors without a chip behind them.
func (h *host) temp() *float64 {
	if h.failures >= sensorTries {
		return nil
	}
	all, err := h.temperatures()
	var best *reading
	for _, r := range all {
		switch {
		case math.IsNaN(r.value) || r.value <= -50 || r.value >= 125 || r.value == 0:
		case best == nil, ofProcessor(r) && !ofProcessor(*best), ofProcessor(r) == ofProcessor(*best) && r.value > best.value:
			best = &r
		}
	}
	if best == nil {
		h.failures++
		return nil
	}
	_ = err // some sensors may have failed beside the ones that answered
	h.failures = 0
	return figure(best.value, nil)
}

// ofProcessor says whether a sensor is the processor's, by the names that Linux drivers, macOS and
// Windows use.
func ofProcessor(r reading) bool {
	name := strings.ToLower(r.name)
	for _, part := range []string{"coretemp", "k10temp", "zenpower", "cpu", "x86_pkg", "soc", "tctl", "tdie", "tc0p"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

func processor() (times, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	all, err := cpu.TimesWithContext(ctx, false)
	if err != nil || len(all) == 0 {
		return times{}, errNoReading
	}
	t := all[0]
	busy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal
	if runtime.GOOS != "linux" { // Linux counts guests as user already
		busy += t.Guest + t.GuestNice
	}
	return times{busy, busy + t.Idle + t.Iowait}, nil
}

func memory() (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	v, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return 0, err
	}
	return v.UsedPercent, nil
}

func load1() (float64, error) {
	if runtime.GOOS == "windows" {
		return 0, errNoReading
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	v, err := load.AvgWithContext(ctx)
	if err != nil {
		return 0, err
	}
	return v.Load1, nil
}

func temperatures() ([]reading, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	all, err := sensors.TemperaturesWithContext(ctx)
	found := make([]reading, len(all))
	for i, t := range all {
		found[i] = reading{t.SensorKey, t.Temperature}
	}
	return found, err
}
