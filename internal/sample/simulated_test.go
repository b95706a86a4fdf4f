package sample

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"regexp"
	"testing"
	"time"
)

// Two of the samples send "21.50", text, against a model that says double.
var simulatedBody = regexp.MustCompile(`^\{"temp":[0-9]{2,3}(\.[0-9]{1,2})?,"humidity":[0-9]{1,3}(\.[0-9]{1,2})?\}$`)

func TestSimulatedRoom(t *testing.T) {
	type room struct{ Temp, Humidity float64 }
	for _, interval := range []time.Duration{100 * time.Millisecond, 5 * time.Second, time.Hour} {
		read, now := NewRoom(rand.New(rand.NewPCG(1, 2))), time.Unix(0, 0)
		var last room
		var moved, least, most float64 = 0, 200, 0
		const count = 20000
		for i := range count {
			body, err := read(now)
			if err != nil || !simulatedBody.Match(body) {
				t.Fatalf("%s %v", body, err)
			}
			var r room
			if err := json.Unmarshal(body, &r); err != nil {
				t.Fatal(err)
			}
			if r.Temp < 20 || r.Temp > 120 || r.Humidity < 0 || r.Humidity > 100 {
				t.Fatalf("out of range: %s", body)
			}
			if i > 0 {
				moved += math.Abs(r.Temp - last.Temp)
			}
			last, least, most = r, min(least, r.Temp), max(most, r.Temp)
			now = now.Add(interval)
		}
		step := moved / (count - 1)
		t.Logf("every %v: mean step %.2f, from %.2f to %.2f", interval, step, least, most)
		if interval <= 5*time.Second && (step > 3 || step == 0) { // white noise of this spread would step 17
			t.Errorf("every %v: mean step of %.2f is noise", interval, step)
		}
		if most-least < 20 {
			t.Errorf("every %v: wanders from %.2f to %.2f only", interval, least, most)
		}
	}
	a, _ := NewRoom(rand.New(rand.NewPCG(7, 7)))(time.Now())
	b, _ := NewRoom(rand.New(rand.NewPCG(7, 7)))(time.Now())
	c, _ := NewRoom(nil)(time.Now())
	if string(a) != string(b) || string(a) == string(c) {
		t.Errorf("same seed %s %s, none %s", a, b, c)
	}
	read := NewRoom(nil) // a clock that is set back
	for _, at := range []int64{1000, 10, 1000, 10} {
		if body, err := read(time.Unix(at, 0)); err != nil || !simulatedBody.Match(body) {
			t.Errorf("%s %v", body, err)
		}
	}
}

func TestSimulatedBattery(t *testing.T) {
	read, now := NewSimulatedBattery(rand.New(rand.NewPCG(1, 2))), time.Unix(0, 0)
	least, most, last := 100.0, 0.0, 0.0
	for i := range 10000 { // two days
		v, err := read(now)
		if err != nil || v < 0 || v > 100 || v != math.Round(v*100)/100 {
			t.Fatalf("%v %v", v, err)
		}
		if i > 0 && math.Abs(v-last) > 1 {
			t.Fatalf("jumps from %v to %v in 15 s", last, v)
		}
		least, most, last = min(least, v), max(most, v), v
		now = now.Add(15 * time.Second)
	}
	if least > 25 || least < 15 || most < 99 {
		t.Errorf("from %v to %v", least, most)
	}
	for range 20 { // and asked once a week it stays in its range
		now = now.Add(7 * 24 * time.Hour)
		if v, _ := read(now); v < 0 || v > 100 {
			t.Errorf("%v", v)
		}
	}
}
