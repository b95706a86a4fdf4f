// Package bubble runs a function in virtual time, in a program that is no test: in a bubble of
// testing/synctest. Time stands still there while a goroutine works, and leaps to the next timer
// when all of them wait. So days pass in seconds.
package bubble

import (
	"fmt"
	"runtime/debug"
	"testing"
	"testing/synctest"
)

// Run runs f in virtual time, which begins at midnight UTC of 2000-01-01. It returns when f and
// every goroutine that f has started have ended. It returns an error if f panics, or if goroutines
// are left that wait for ever.
//
// What f uses must be made in f: timers, channels and connections of the real world do not let the
// time leap. Mutexes and files do no harm. f learns of the end of a real context by asking for its
// error; it must not wait for it.
func Run(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil { // all of them wait, and no timer is left
			err = fmt.Errorf("virtual time cannot go on: %v", p)
		}
	}()
	// The test serves as the door to the bubble only. A zero T has all that the door needs, also
	// outside of go test, as long as nothing fails, logs or starts another test on it.
	synctest.Test(new(testing.T), func(*testing.T) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic in virtual time: %v\n%s", p, debug.Stack())
			}
		}()
		f()
	})
	return err
}

// Settle waits until every other goroutine of the bubble waits for something. It must be called in
// a bubble.
func Settle() { synctest.Wait() }
