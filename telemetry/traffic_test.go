package telemetry

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestRateIsOfTheLastTenSeconds acknowledges two messages a second, stops, and goes on.
func TestRateIsOfTheLastTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var traffic Traffic
		near := func(want float64) {
			t.Helper()
			if got := traffic.PerSecond(); got < want-0.11 || got > want+0.11 {
				t.Errorf("%v: %.2f messages a second, not %.2f", time.Now(), got, want)
			}
		}
		near(0)
		for range 60 {
			time.Sleep(500 * time.Millisecond)
			traffic.acknowledged(1)
		}
		near(2)
		time.Sleep(5 * time.Second)
		near(1)
		time.Sleep(time.Hour)
		near(0)
		traffic.acknowledged(10)
		near(1)
	})
}

// TestRateOfADeviceThatHasJustBegunIsNotTooLow acknowledges five messages a second from the first
// second on, begun at different moments of the spans in which they are counted.
func TestRateOfADeviceThatHasJustBegunIsNotTooLow(t *testing.T) {
	for wait := range 10 {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Duration(wait) * time.Second)
			var traffic Traffic
			for i := range 150 {
				traffic.acknowledged(1)
				time.Sleep(200 * time.Millisecond)
				if got := traffic.PerSecond(); i >= 5 && (got < 4.5 || got > 5.5) {
					t.Errorf("begun at %d s, after %d messages: %.2f messages a second, not 5", wait, i+1, got)
				}
			}
		})
	}
}

// TestRepeatedCountsWhatIsSentOnceMore sends messages on links that end without acknowledgements.
func TestRepeatedCountsWhatIsSentOnceMore(t *testing.T) {
	var traffic Traffic
	for _, c := range []struct {
		sent, failed int
		want         uint64
	}{{5, 0, 0}, {5, 3, 0}, {2, 2, 2}, {2, 0, 4}, {10, 0, 5}, {10, 1, 5}, {0, 0, 5}, {7, 0, 6}} {
		traffic.sent(c.sent)
		if got := traffic.Repeated(); got != c.want {
			t.Errorf("%+v: %d were repeated", c, got)
		}
		traffic.failed(c.failed)
	}
}
