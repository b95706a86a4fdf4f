package telemetry

import (
	"container/heap"
	"slices"
	"sync"
	"time"
)

// Sampler asks the scheduled sources of a whole process for their samples when they are due. It
// costs no goroutine between two ticks. One timer waits for the next tick of all sources. Then as
// many workers as sources are due, up to a bound, ask the sources and end. A source whose Read
// takes long occupies a worker for stuckAfter at most; then another worker takes over. So sources
// that hang, such as those of a broken bus, do not stop the others.
type Sampler struct {
	bound int // workers

	mu      sync.Mutex
	waiting byDue
	ready   []*task     // their time has come
	running []turn      // asked now, except those that are stuck
	workers int         // except those that ask a source that is stuck
	timer   *time.Timer // for waiting[0]; nil: not needed yet
	relief  *time.Timer // takes workers from stuck sources; nil: nobody needs them
}

// task is a function that a Sampler calls when it is due. Sampler.mu guards its fields.
type task struct {
	run     func() (next time.Time) // when it is due again; zero: resume will say
	due     time.Time
	index   int // its place in Sampler.waiting, counted from 1; 0: it does not wait
	running bool
	stopped bool
	resumed time.Time     // what resume said while it was still running; zero: nothing
	idle    chan struct{} // closed when a run ends after stop; nil: nobody waits for that
}

// turn is a task that runs. After stuckAfter it is stuck, and its worker does not count any more.
type turn struct {
	of    *task
	since time.Time
}

// defaultWorkers is how many sources are asked at once, unless a Sampler is told otherwise.
const defaultWorkers = 16

// stuckAfter is how long a source may take before its worker does not count any more.
const stuckAfter = 2 * time.Second

// NewSampler returns a sampler that asks at most so many sources at once; 0: 16.
func NewSampler(workers int) *Sampler {
	if workers <= 0 {
		workers = defaultWorkers
	}
	return &Sampler{bound: workers}
}

// start calls t.run now, and then whenever that says, until stop. It is never called twice at once.
func (s *Sampler) start(t *task) {
	s.resume(t, time.Now())
}

// resume lets a task go on that did not say when it is due. It may be called before run returns.
func (s *Sampler) resume(t *task, due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case t.stopped:
	case t.running:
		t.resumed = due
	default:
		s.waitLocked(t, due)
	}
}

// stop returns when run is not called any more, and does not run. It must not be called by run.
func (s *Sampler) stop(t *task) {
	s.mu.Lock()
	t.stopped = true
	if t.index > 0 {
		heap.Remove(&s.waiting, t.index-1)
		s.planLocked()
	}
	if !t.running {
		s.mu.Unlock()
		return
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	s.mu.Unlock()
	<-idle
}

func (s *Sampler) waitLocked(t *task, due time.Time) {
	t.due = due
	heap.Push(&s.waiting, t)
	s.planLocked()
}

// planLocked hands over what is due, and sets the timer for what is due next.
func (s *Sampler) planLocked() {
	for len(s.waiting) > 0 && !s.waiting[0].due.After(time.Now()) {
		s.ready = append(s.ready, heap.Pop(&s.waiting).(*task))
		if s.workers < s.bound {
			s.workers++
			go s.work()
		}
	}
	if s.workers >= s.bound {
		s.relieveLocked()
	}
	switch {
	case len(s.waiting) == 0:
		if s.timer != nil {
			s.timer.Stop()
		}
	case s.timer == nil:
		s.timer = time.AfterFunc(time.Until(s.waiting[0].due), s.plan)
	default:
		s.timer.Reset(time.Until(s.waiting[0].due))
	}
}

func (s *Sampler) plan() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.planLocked()
}

// relieveLocked begins a worker in the place of each that asks a source that is stuck, if sources
// wait for one. It looks again when the next source may be stuck.
func (s *Sampler) relieveLocked() {
	if len(s.ready) == 0 || s.relief != nil {
		return
	}
	now := time.Now()
	next := now.Add(stuckAfter)
	s.running = slices.DeleteFunc(s.running, func(t turn) (isStuck bool) {
		end := t.since.Add(stuckAfter)
		if isStuck = !end.After(now); isStuck {
			s.workers--
		} else if end.Before(next) {
			next = end
		}
		return isStuck
	})
	for begun := 0; begun < len(s.ready) && s.workers < s.bound; begun++ {
		s.workers++
		go s.work()
	}
	s.relief = time.AfterFunc(next.Sub(now), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.relief = nil
		s.relieveLocked()
	})
}

// Due returns when the next source is to be asked; zero if none waits for its time. A time that has
// passed means that no worker was free since.
func (s *Sampler) Due() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.ready) > 0:
		return s.ready[0].due
	case len(s.waiting) > 0:
		return s.waiting[0].due
	default:
		return time.Time{}
	}
}

// work runs tasks until none is ready, or until another worker has taken its place.
func (s *Sampler) work() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.ready) > 0 {
		t := s.ready[0]
		s.ready[0] = nil
		s.ready = s.ready[1:]
		if t.stopped {
			continue
		}
		t.running, t.resumed = true, time.Time{}
		s.running = append(s.running, turn{t, time.Now()})
		s.mu.Unlock()
		next := t.run()
		s.mu.Lock()
		t.running = false
		i := slices.IndexFunc(s.running, func(other turn) bool { return other.of == t })
		stuck := i < 0
		if !stuck {
			s.running = slices.Delete(s.running, i, i+1)
		}
		if next.IsZero() {
			next = t.resumed
		}
		switch {
		case t.idle != nil:
			close(t.idle)
		case !t.stopped && !next.IsZero():
			s.waitLocked(t, next)
		}
		if stuck {
			return
		}
	}
	s.ready = nil
	s.workers--
}

// byDue is a heap of tasks, the one that is due first on top.
type byDue []*task

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, k int) bool { return h[i].due.Before(h[k].due) }

func (h byDue) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].index, h[k].index = i+1, k+1
}

// Push is for package heap.
func (h *byDue) Push(x any) {
	t := x.(*task)
	*h = append(*h, t)
	t.index = len(*h)
}

// Pop is for package heap.
func (h *byDue) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = 0
	return t
}
