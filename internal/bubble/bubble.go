// Package bubble runs a function in virtual time, in a program that is no test: in a bubble of
// testing/synctest. Time stands still there while a goroutine works, and leaps to the next timer
// when all of them wait. So days pass in seconds.
package bubble

import (
	"bytes"
	"fmt"
	"runtime"
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

// Goroutines returns how many goroutines the bubble of the caller has. Unlike
// runtime.NumGoroutine it does not count those of the world outside, which come and go at any
// time. It must be called in a bubble.
func Goroutines() int {
	stacks := make([]byte, 64<<10)
	for {
		n := runtime.Stack(stacks, true)
		if n < len(stacks) {
			stacks = stacks[:n]
			break
		}
		stacks = make([]byte, 2*len(stacks))
	}
	// The stack of the caller comes first: "goroutine 7 [running, synctest bubble 6]:".
	first, _, _ := bytes.Cut(stacks, []byte("\n"))
	_, id, found := bytes.Cut(first, []byte("synctest bubble "))
	if !found {
		panic("bubble.Goroutines is called outside a bubble")
	}
	return bytes.Count(stacks, append([]byte("synctest bubble "), id...))
}
