package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// program is one of the two that are killed and started again, for ever on the same directories.
type program struct {
	name, path string
	args       []string
	home       string // working directory, and where its log is
	kills      int
	logged     int64 // bytes of the log at the last start

	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{} // closed when it has ended; err is set before
	err   error
}

// start runs it. Its log is appended to <name>.log; what it writes to its standard output goes to told, line by line.
func (p *program) start(ctx context.Context, told chan<- string) error {
	log, err := os.OpenFile(filepath.Join(p.home, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	if p.logged, err = log.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, p.path, p.args...) //nolint:gosec // the program under test
	cmd.Dir, cmd.Env, cmd.Stderr = p.home, p.environment(), log
	if p.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.err = cmd, ended, nil
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			select {
			case told <- lines.Text():
			default: // nobody wants to know
			}
		}
		p.err = cmd.Wait()
	}()
	return nil
}

// environment is all that the program hears of its surroundings.
func (p *program) environment() []string {
	return []string{"HOME=" + p.home, "PATH=" + os.Getenv("PATH")}
}

// kill is kill -9. It fails if the program had ended by itself.
func (p *program) kill() error {
	if err := p.running(); err != nil {
		return err
	}
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.ended
	p.kills++
	if state := p.cmd.ProcessState; state != nil && state.Exited() {
		return fmt.Errorf("the %s ended by itself: %w", p.name, p.err)
	}
	return nil
}

// running fails if the program has ended.
func (p *program) running() error {
	select {
	case <-p.ended:
		return fmt.Errorf("the %s ended by itself: %w", p.name, errors.Join(p.err, errors.New("see its log")))
	default:
		return nil
	}
}

// feeder writes numbered lines to the device that lives now, at a rate that holds for the whole run: what could not be written while
// there was no device is made up for.
type feeder struct {
	rate  int // lines a second
	began time.Time

	mu    sync.Mutex
	n     uint64
	lives []life
	stop  chan struct{} // ends the writing to this life
	done  chan struct{} // closed when it has ended
}

const (
	feedEvery = 5 * time.Millisecond
	feedMost  = 500 // lines at once, when there is much to make up for
)

// feed begins a life of the device.
func (f *feeder) feed(to io.WriteCloser) {
	stop, done := make(chan struct{}), make(chan struct{})
	f.mu.Lock()
	if f.began.IsZero() {
		f.began = time.Now()
	}
	f.stop, f.done = stop, done
	f.lives = append(f.lives, life{first: f.n + 1})
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

// due makes the lines whose time has come. They count as written before they are.
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
	f.lives[id].last = f.n
	return text
}

// end ends the life's input: what was written so far is all.
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
