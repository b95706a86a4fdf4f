package sample

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// ErrNoBattery says that this package cannot read batteries on this system.
var ErrNoBattery = errors.New("the battery cannot be read on " + runtime.GOOS)

// NewHostBattery returns the machine's own battery, or the mean of several. A machine without one
// runs on mains, so its charge is 100. On systems other than Linux the battery returns
// [ErrNoBattery], because 100 would be a guess.
func NewHostBattery() Battery {
	if runtime.GOOS != "linux" {
		return func(time.Time) (float64, error) { return 0, ErrNoBattery }
	}
	return func(time.Time) (float64, error) { return supplies("/sys/class/power_supply") }
}

// supplies reads the kernel's list of power supplies.
func supplies(dir string) (float64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // no list at all: no battery
		return 0, fmt.Errorf("battery: %w", err)
	}
	sum, count := 0.0, 0
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if word(at, "type") != "Battery" || word(at, "scope") == "Device" { // of a mouse, a headset
			continue
		}
		percent, err := strconv.ParseFloat(word(at, "capacity"), 64)
		if err != nil || math.IsNaN(percent) {
			continue
		}
		sum += min(max(percent, 0), 100)
		count++
	}
	if count == 0 {
		return 100, nil
	}
	return math.Round(sum/float64(count)*100) / 100, nil
}

func word(dir, file string) string {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
