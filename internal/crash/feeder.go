package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
)

// feeder writes numbered lines to the device that lives now. The rate holds for the whole run:
// lines that were due while there was no device are written later.
type feeder struct {
	rate  int // lines a second
	began time.Time

	mu    sync.Mutex
	n     uint64
	lives []drill.Life
	stop  chan struct{} // ends the writing to this life
	done  chan struct{} // closed when it has ended
}

const (
	feedEvery = 5 * time.Millisecond
	feedMost  = 500 // lines at once, when many are due
)

// feed begins a life of the device: it writes to it until end, or until the device is killed.
func (f *feeder) feed(to io.WriteCloser) {
	stop, done := make(chan struct{}), make(chan struct{})
	f.mu.Lock()
	if f.began.IsZero() {
		f.began = time.Now()
	}
	f.stop, f.done = stop, done
	f.lives = append(f.lives, drill.Life{First: f.n + 1})
	id := len(f.lives) - 1
	f.mu.Unlock()
	go func() {
		defer close(done)
		defer func() { _ = to.Close() }()
		tick := time.NewTicker(feedEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			if _, err := to.Write(f.due(id)); err != nil {
				return // it was killed
			}
		}
	}()
}

// due makes the lines that are due. They count as written at once.
func (f *feeder) due(id int) (text []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	want := uint64(time.Since(f.began).Seconds() * float64(f.rate))
	for range feedMost {
		if f.n >= want {
			break
		}
		f.n++
		text = fmt.Appendf(text, `{"life":%d,"n":%d,"temp":21.53,"humidity":40.17}`+"\n", id, f.n)
	}
	f.lives[id].Last = f.n
	return text
}

// end ends the input of the life.
func (f *feeder) end() {
	close(f.stop)
	<-f.done
}

// written is the number of the last line.
func (f *feeder) written() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}
