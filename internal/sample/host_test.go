package sample

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/virtual"
)

// The machine the test runs on, with a processor at work.
func TestThisMachine(t *testing.T) {
	read := NewHost()
	var stop atomic.Bool
	defer stop.Store(true)
	for range runtime.NumCPU() {
		go func() {
			for !stop.Load() {
			}
		}()
	}
	body, err := read(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", body)
	var m machine
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	if m.CPU == nil || *m.CPU <= 0 || *m.CPU > 100 { // the very first figure must know that it is busy
		t.Errorf("cpu in %s", body)
	}
	if m.Memory == nil || *m.Memory <= 0 || *m.Memory >= 100 {
		t.Errorf("memory in %s", body)
	}
	if runtime.GOOS != "windows" && (m.Load1 == nil || *m.Load1 < 0) {
		t.Errorf("load in %s", body)
	}
	if m.Temp != nil && (*m.Temp < -50 || *m.Temp > 125) {
		t.Errorf("temperature in %s", body)
	}
	// The model knows temp; the others are told of once and sent all the same.
	for _, f := range virtual.Model(t).CheckTelemetry("", body) {
		if f.Name == "temp" {
			t.Errorf("%+v", f)
		}
	}
	if again, err := read(time.Now()); err != nil || len(again) == 0 {
		t.Errorf("%s %v", again, err)
	}
}

// idle is a machine that tells nothing.
func idle() *host {
	return &host{
		processor:    func() (times, error) { return times{}, errNoReading },
		memory:       func() (float64, error) { return 0, errNoReading },
		load:         func() (float64, error) { return 0, errNoReading },
		temperatures: func() ([]reading, error) { return nil, errNoReading },
	}
}

func TestWhatAMachineDoesNotTellIsLeftOut(t *testing.T) {
	h := idle()
	if body, err := h.read(time.Now()); !errors.Is(err, errNoReading) {
		t.Errorf("%s %v", body, err)
	}
	h.memory = func() (float64, error) { return 41.239, nil }
	h.load = func() (float64, error) { return math.NaN(), nil }
	if body, err := h.read(time.Now()); err != nil || string(body) != `{"memory":41.24}` {
		t.Errorf("%s %v", body, err)
	}
	h.load = func() (float64, error) { return 0, nil } // nothing to do is a figure
	h.temperatures = func() ([]reading, error) { return []reading{{"acpitz", 40}}, errors.New("another sensor failed") }
	if body, err := h.read(time.Now()); err != nil || string(body) != `{"memory":41.24,"load1":0,"temp":40}` {
		t.Errorf("%s %v", body, err)
	}
}

func TestProcessorTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, now := idle(), times{busy: 1000, total: 4000}
		h.settle = 250 * time.Millisecond
		start := time.Now()
		h.processor = func() (times, error) {
			if now.total == 4000 && time.Since(start) >= 100*time.Millisecond {
				now = times{1001, 4004}
			}
			return now, nil
		}
		h.before, h.since = now, start
		expect := func(want string) {
			t.Helper()
			if body, err := h.read(time.Now()); err != nil || string(body) != want {
				t.Errorf("%s %v, want %s", body, err, want)
			}
		}
		expect(`{"cpu":25}`)
		if waited := time.Since(start); waited != 250*time.Millisecond {
			t.Errorf("the first reading took %v", waited)
		}
		expect(`{"cpu":25}`) // no time has passed for the kernel
		now = times{1004, 4007}
		expect(`{"cpu":100}`)
		now = times{1003, 4010} // idle time is known to run backwards
		expect(`{"cpu":0}`)
		if time.Since(start) != 250*time.Millisecond {
			t.Error("a later reading waited")
		}
	})
}

func TestWhichTemperature(t *testing.T) {
	tests := map[string]struct {
		sensors []reading
		want    *float64
	}{
		"none":                {nil, nil},
		"nonsense only":       {[]reading{{"a", 0}, {"b", 255}, {"c", -273.15}, {"d", math.NaN()}}, nil},
		"hottest":             {[]reading{{"nvme", 38}, {"acpitz", 44.567}, {"iwlwifi", 41}}, new(44.57)},
		"processor first":     {[]reading{{"nvme", 60}, {"coretemp_core_0", 45}, {"coretemp_package_id_0", 47}, {"acpitz", 99}}, new(47.0)},
		"legacy thermal zone": {[]reading{{"battery", 60}, {"cpu-thermal", 51}}, new(51.0)},
		"nonsense aside":      {[]reading{{"coretemp", 127}, {"acpitz", 30}}, new(30.0)},
	}
	for name, test := range tests {
		h := idle()
		h.temperatures = func() ([]reading, error) { return test.sensors, nil }
		got := h.temp()
		if (got == nil) != (test.want == nil) || got != nil && *got != *test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestAMachineWithoutSensorsIsNotAskedForEver(t *testing.T) {
	h, asked := idle(), 0
	h.temperatures = func() ([]reading, error) { asked++; return nil, nil }
	for range 10 {
		h.temp()
	}
	if asked != sensorTries {
		t.Errorf("asked %d times", asked)
	}
}

func TestHostBattery(t *testing.T) {
	supply := func(dir, name string, files map[string]string) {
		t.Helper()
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(at, file), []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect := func(dir string, want float64) {
		t.Helper()
		if got, err := supplies(dir); err != nil || got != want {
			t.Errorf("%v %v, want %v", got, err, want)
		}
	}
	dir := t.TempDir()
	expect(filepath.Join(dir, "none"), 100)
	expect(dir, 100)
	supply(dir, "AC", map[string]string{"type": "Mains", "online": "1"})
	supply(dir, "hidpp_battery_0", map[string]string{"type": "Battery", "scope": "Device", "capacity": "5"})
	expect(dir, 100)
	supply(dir, "BAT0", map[string]string{"type": "Battery", "capacity": "37"})
	expect(dir, 37)
	supply(dir, "BAT1", map[string]string{"type": "Battery", "scope": "System", "capacity": "108"}) // worn ones count past full
	expect(dir, 68.5)
	supply(dir, "BAT2", map[string]string{"type": "Battery", "capacity": "unknown"})
	expect(dir, 68.5)
	if _, err := supplies(filepath.Join(dir, "AC", "type")); err == nil {
		t.Error("a file is taken for a list")
	}

	got, err := NewHostBattery()(time.Now())
	if runtime.GOOS == "linux" && (err != nil || got < 0 || got > 100) || runtime.GOOS != "linux" && !errors.Is(err, ErrNoBattery) {
		t.Errorf("this machine: %v %v", got, err)
	}
}
