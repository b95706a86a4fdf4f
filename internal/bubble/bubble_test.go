package bubble

import (
	"context"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTimeLeaps(t *testing.T) {
	took := time.Duration(0)
	if err := Run(func() {
		began := time.Now()
		var others sync.WaitGroup
		for range 10 {
			others.Go(func() { time.Sleep(72 * time.Hour) })
		}
		others.Wait()
		took = time.Since(began)
	}); err != nil {
		t.Fatal(err)
	}
	if took != 72*time.Hour {
		t.Errorf("72 h took %v", took)
	}
}

func TestAPanicIsAnError(t *testing.T) {
	if err := Run(func() { panic("the world ends") }); err == nil || !strings.Contains(err.Error(), "the world ends") {
		t.Errorf("the error is %v", err)
	}
}

func TestGoroutinesThatWaitForEverAreAnError(t *testing.T) {
	for name, f := range map[string]func(){
		"the function":         func() { select {} },
		"a goroutine of it":    func() { go func() { select {} }() },
		"a channel of its own": func() { <-make(chan int) },
	} {
		if err := Run(f); err == nil || !strings.Contains(err.Error(), "cannot go on") {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

func TestTheRealWorldCanEndIt(t *testing.T) {
	outside, cancel := context.WithCancel(t.Context())
	cancel()
	looks := 0
	if err := Run(func() {
		for outside.Err() == nil {
			time.Sleep(time.Second)
		}
		looks++
	}); err != nil || looks != 1 {
		t.Errorf("%d looks, error %v", looks, err)
	}
}

// TestAProgramThatIsNoTestCanUseIt builds a program and runs it, because Run depends on what
// package testing does outside of go test.
func TestAProgramThatIsNoTestCanUseIt(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "program")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./testdata/program").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), binary).CombinedOutput()
	want := "2000-02-11 16:00:00 +0000 UTC\n<nil>\nvirtual time cannot go on: deadlock: main bubble goroutine has exited but blocked goroutines remain\ntrue\n"
	if err != nil || string(out) != want {
		t.Errorf("error %v, output\n%s", err, out)
	}
}

// TestOnlyTheBubblesGoroutinesAreCounted: goroutines outside do not count, and those of the bubble
// do, more of them than fit into the first buffer.
func TestOnlyTheBubblesGoroutinesAreCounted(t *testing.T) {
	outside, began := make(chan struct{}), make(chan struct{})
	defer close(outside)
	go func() { // starts others all the while
		close(began)
		for {
			select {
			case <-outside:
				return
			default:
				go func() { runtime.Gosched() }()
				runtime.Gosched()
			}
		}
	}()
	<-began
	var before, with, after int
	err := Run(func() {
		before = Goroutines()
		end := make(chan struct{})
		for range 500 {
			go func() { <-end }()
		}
		Settle()
		with = Goroutines()
		close(end)
		Settle()
		after = Goroutines()
	})
	if err != nil || with != before+500 || after != before {
		t.Errorf("%d, %d, %d goroutines, %v", before, with, after, err)
	}
}
