package cmd

import (
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestEachSignalEndsTheProcessAsItShould holds the process to what each signal means, to the
// millisecond.
func TestEachSignalEndsTheProcessAsItShould(t *testing.T) {
	const never = -1
	type sent struct {
		at  time.Duration
		sig os.Signal
	}
	for _, test := range []struct {
		name  string
		sent  []sent
		dies  time.Duration // after the first signal
		cause os.Signal
	}{
		{"one", []sent{{0, syscall.SIGTERM}}, never, nil},
		{"GNU timeout", []sent{{0, syscall.SIGTERM}, {0, syscall.SIGTERM}}, never, nil},
		{"GNU timeout -s INT", []sent{{0, os.Interrupt}, {time.Millisecond, os.Interrupt}}, never, nil},
		{"a terminal is closed", []sent{{0, syscall.SIGHUP}, {0, syscall.SIGTERM}, {time.Millisecond, syscall.SIGHUP}}, never, nil},
		{"Ctrl-C twice", []sent{{0, os.Interrupt}, {150 * time.Millisecond, os.Interrupt}}, 150 * time.Millisecond, os.Interrupt},
		{"Ctrl-C while it stops", []sent{{0, syscall.SIGTERM}, {typedAgain, os.Interrupt}}, typedAgain, os.Interrupt},
		{"a supervisor within a second", []sent{{0, syscall.SIGTERM}, {999 * time.Millisecond, syscall.SIGTERM}}, never, nil},
		{"a supervisor that insists", []sent{{0, syscall.SIGTERM}, {0, syscall.SIGTERM}, {sentAgain, syscall.SIGTERM}}, sentAgain, syscall.SIGTERM},
		{"SIGHUP again", []sent{{0, syscall.SIGTERM}, {sentAgain, syscall.SIGHUP}}, sentAgain, syscall.SIGHUP},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signals := make(chan os.Signal, 8)
				began, asked, died := time.Now(), 0, time.Duration(never)
				var cause os.Signal
				over := make(chan struct{})
				go func() {
					defer close(over)
					obey(signals, func() { asked++ }, func(sig os.Signal) { died, cause = time.Since(began), sig })
				}()
				for _, s := range test.sent {
					time.Sleep(s.at - time.Since(began))
					signals <- s.sig
				}
				synctest.Wait()
				close(signals)
				<-over
				if asked != 1 || died != test.dies || cause != test.cause {
					t.Errorf("asked to stop %d times, ended at once after %v by %v", asked, died, cause)
				}
			})
		})
	}
}
