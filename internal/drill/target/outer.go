package target

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/program"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// Outer is a program in any language. The ledger of the simulator alone says what it did, so it
// must number its samples: 1, 2, 3 and so on, without a hole, also over a restart of the program.
type Outer struct {
	Args    []string  // the program and its arguments; nil: somebody else runs it
	Environ []string  // what it gets beside the variables of its site
	Output  io.Writer // where its standard output and error go

	grace time.Duration // instead of program.Grace, for tests; 0: that

	// Sequence is where the number of a sample is in the body of its message: the name of a field,
	// or names with dots between them. With "" the message id is the number, or ends in it.
	Sequence string
}

func (o *Outer) lacks(n drill.Need) string {
	switch n {
	case drill.NeedProcess, drill.NeedKill:
		if len(o.Args) == 0 {
			return "somebody else runs the program; let the drill start it with --exec"
		}
	case drill.NeedOutbox:
		return "an external program shows nothing of itself; the device of hubhop can be judged by it (--device embedded)"
	case drill.NeedClock:
		return "the clock of an external program cannot be changed"
	case drill.NeedRival:
		return "two of an external program cannot be started"
	case drill.NeedLoad:
		return "an external program makes samples at its own pace"
	default:
	}
	return ""
}

// arrival numbers the messages as an outbox does. A program that the drill starts begins with 1.
// One that runs already is judged from the first message on that arrives.
func (o *Outer) arrival() func(sim.Message) drill.Arrival {
	before := map[string]uint64{} // by series: the number before the first one that counts
	return func(m sim.Message) drill.Arrival {
		series, n, ok := o.number(m)
		if !ok {
			return drill.Arrival{Device: m.Device}
		}
		h := fnv.New64a()
		_, _ = io.WriteString(h, m.Device+"\x00"+series)
		base, known := before[series]
		if !known && len(o.Args) == 0 && len(before) < maxSeries {
			base = n - 1
			before[series] = base
		}
		if n <= base {
			return drill.Arrival{Device: m.Device}
		}
		return drill.Arrival{ID: fmt.Sprintf("%016x-%d", h.Sum64(), n-base), Device: m.Device}
	}
}

// maxSeries bounds the series of numbers that are told apart.
const maxSeries = 1000

// number returns the number of a sample, and in which series of numbers it stands.
func (o *Outer) number(m sim.Message) (series string, n uint64, ok bool) {
	if o.Sequence == "" {
		digits := len(m.Mid)
		for digits > 0 && m.Mid[digits-1] >= '0' && m.Mid[digits-1] <= '9' {
			digits--
		}
		n, err := strconv.ParseUint(m.Mid[digits:], 10, 63)
		return m.Mid[:digits], n, err == nil && n > 0
	}
	value := m.Body
	for name := range strings.SplitSeq(o.Sequence, ".") {
		var fields map[string]json.RawMessage
		if json.Unmarshal(value, &fields) != nil {
			return "", 0, false
		}
		value = fields[name]
	}
	n, err := strconv.ParseUint(strings.Trim(string(value), `"`), 10, 63)
	return "", n, err == nil && n > 0
}

func (o *Outer) party(plan drill.Plan, at Site) (party, error) {
	if at.DeviceID == "" {
		return nil, errors.New("the device has no id; give --device-id")
	}
	p := &outer{o: o, id: at.DeviceID}
	p.environ = slices.Concat(o.Environ, at.Environ, []string{
		"SIM_DEVICE_ID=" + p.id, "HUBHOP_DEVICE_ID=" + p.id, "HUBHOP_STATE_DIR=" + filepath.Join(plan.Dir, "state")})
	if len(o.Args) > 0 {
		if _, err := exec.LookPath(o.Args[0]); err != nil {
			return nil, fmt.Errorf("the program of the device: %w", err)
		}
	}
	return p, nil
}

// outer is a program under test.
type outer struct {
	o       *Outer
	id      string
	environ []string

	mu   sync.Mutex
	run  *running // the newest process; nil before the first start
	last error    // how its last process has ended, if nobody asked it to
}

// running is one process.
type running struct {
	cmd   *exec.Cmd
	asked bool          // to end; the mutex of outer guards it
	ended chan struct{} // closed when it has ended
}

// runs says whether the process has not ended.
func (r *running) runs() bool {
	if r == nil {
		return false
	}
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}

func (p *outer) ID() string { return p.id }

// Start starts the program, unless it runs.
func (p *outer) Start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.o.Args) == 0 || p.run.runs() {
		return
	}
	r := &running{cmd: exec.Command(p.o.Args[0], p.o.Args[1:]...), ended: make(chan struct{})} //nolint:gosec,noctx // running this program is what the user asks for; Stop and Crash end it
	out := piped{p.o.Output}
	r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr, r.cmd.WaitDelay = p.environ, out, out, p.o.patience()
	program.Together(r.cmd)
	if err := r.cmd.Start(); err != nil {
		p.last = fmt.Errorf("the program does not start: %w", err)
		return
	}
	p.run, p.last = r, nil
	go func() {
		_ = r.cmd.Wait()    // how it has ended is in its ProcessState
		program.Kill(r.cmd) // what it has started and left behind
		p.mu.Lock()
		if !r.asked {
			p.last = fmt.Errorf("the program has ended by itself: %s", r.cmd.ProcessState)
		}
		close(r.ended)
		p.mu.Unlock()
	}()
}

// patience is how long the program may take to end.
func (o *Outer) patience() time.Duration { return cmp.Or(o.grace, program.Grace) }

// piped is a writer that a program reaches through a pipe, even if it is a file. All that the
// program has started have the pipe too, so Wait waits for their ends: a shell that is asked to end
// does so at once, and leaves behind the program that it has started, which still has work to do.
type piped struct{ io.Writer }

// ask marks the end of the process as wanted, and returns the process. It returns nil if there is
// none.
func (p *outer) ask() *running {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.run.runs() {
		return nil
	}
	p.run.asked = true
	return p.run
}

// Stop asks the program to end, and kills it if it does not.
func (p *outer) Stop() {
	r := p.ask()
	if r == nil {
		return
	}
	program.Terminate(r.cmd)
	late := time.NewTimer(p.o.patience())
	defer late.Stop()
	select {
	case <-r.ended:
	case <-late.C:
		program.Kill(r.cmd)
		<-r.ended
	}
}

// Crash kills the program. The system closes its connections, and hard makes no difference.
func (p *outer) Crash(bool) {
	if r := p.ask(); r != nil {
		program.Kill(r.cmd)
		<-r.ended
	}
}

func (*outer) SetClock(time.Duration) {}
func (*outer) StartRival()            {}
func (*outer) StopRival()             {}

// Look says only whether the program runs, and how it has ended.
func (p *outer) Look() (drill.Look, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return drill.Look{Running: p.run.runs() || len(p.o.Args) == 0, Err: p.last}, false
}

func (p *outer) close() error {
	p.Stop()
	return nil
}
