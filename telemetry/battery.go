package telemetry

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

// ErrNoBattery is the answer of a system whose battery this package cannot read.
var ErrNoBattery = errors.New("the battery cannot be read on " + runtime.GOOS)

// NewHostBattery is the machine's own battery, the mean of them if it has several. A machine without one runs on mains, which is full:
// 100. Only Linux is asked; elsewhere the answer is ErrNoBattery, since "full" would be a guess.
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
