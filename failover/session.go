package failover

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/dps"
)

// Link is what a session needs of a connection to a hub; *hub.Link fits.
type Link interface {
	Done() <-chan struct{} // closed when the link has ended
	// OnEnd calls f when the link has ended, at once if it has. f does not block. It is called once
	// for a link.
	OnEnd(f func())
	Err() error    // waits for the end of the link, and says why it ended
	Carried() bool // a PUBACK was received
	// Close ends the link in order, as far as ctx allows, and Abort ends it with a reset. why is
	// the reason, nil if there is none but that this side wants it. It counts only if the link has
	// not ended before: Err returns the first reason.
	Close(ctx context.Context, why error)
	Abort(why error)
}

// Target is one attempt that a session asks for.
type Target struct {
	Host, DeviceID string
	Sequential     bool   // one packet at a time: send nothing more before the hub has answered
	Early          bool   // messages may leave before the session is accepted
	TLSUp          func() // the dial calls it when TCP and TLS are through
}

// Session keeps one device connected. It touches the world only through these functions. Open, Save
// and Observe may be nil.
type Session[L Link] struct {
	Options Options
	Cached  *State // what the last run left; nil: nothing. The session forgets it when it begins

	// Dial makes one attempt. ctx bounds the attempt. It also ends when the link is retired, so a
	// link must not depend on it.
	Dial func(ctx context.Context, t Target) (L, error)
	// Register makes one registration.
	Register func(ctx context.Context, r dps.Request) (dps.Assignment, error)
	// Open promises the next Register a connection that is ready. The loop calls it, so it must
	// return at once. hold makes the connection, and keeps it until Register has taken it or ctx
	// ends. A process that wants no such connection returns a hold that does nothing.
	Open func(ctx context.Context) (hold func())
	// Serve puts a link to work and returns at once, because it is called from the loop. An idle
	// link then costs the session no goroutine.
	//
	// The session calls end exactly once, in a goroutine of its own. It does so when ctx has ended
	// (another link takes over, or the device stops), when the link has ended, or when the work has
	// called over. The work calls over when it wants the link to end; it may do so from any
	// goroutine, also within Serve, and more than once.
	//
	// end returns when nothing of the work runs any more. Until then the session puts no other link
	// to work. Its error says why the work wanted the end; the session does not use it if ctx has
	// ended. The link is closed afterwards: in order if ctx has ended, else with a reset. A link
	// that end has closed already is left as it is.
	Serve func(ctx context.Context, l L, provisional bool, over func()) (end func() error)
	// Save keeps the state for the next run. The loop calls it and waits for it, so it may take as
	// long as a write to a disk, but no longer.
	Save func(State)
	// Observe is called for everything that is worth telling, in order. It must not block. Several
	// goroutines may call it at the same time.
	Observe func(Note)

	sleeps atomic.Pointer[time.Time]
	beat   beat
}

// Sleeps returns when the session wakes up by itself if it has no link and tries nothing now; else
// zero.
func (s *Session[L]) Sleeps() time.Time {
	if t := s.sleeps.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// NoteKind says what a Note tells.
type NoteKind uint8

// The kinds of notes.
const (
	NoteDialing   NoteKind = iota // an attempt starts
	NoteUp                        // a link is up and at work; Took is the time since the dial began
	NoteConfirmed                 // DPS has confirmed the provisional link that is at work
	NoteLost                      // the served link has ended (also a planned end)
	NoteAsking                    // DPS is being asked
	// NoteWaiting: DPS has not decided yet. Took is the time since it was asked, Step the step that
	// it has not answered.
	NoteWaiting
	// NoteAssigned: DPS has decided. Took is the time of the registration. Unchanged means that DPS
	// named the same hub as before.
	NoteAssigned
	NoteDecision // a row of the table was applied
)

// Note is something worth telling.
type Note struct {
	Kind        NoteKind
	Host        string
	Took        time.Duration
	Provisional bool
	Unchanged   bool     // NoteAssigned only
	Step        dps.Step // NoteWaiting only
	Err         error
	Signal      Signal
	Decision    Decision // NoteDecision only
}

// tellAfter is how long DPS may take until an observer is told. It is told again after twice that
// time, and so on.
const tellAfter = 10 * time.Second

// stillWaiting tells observe after 10 s, 20 s, 40 s and so on that DPS has not answered, and in
// which step. progress sets the step. After stop has returned, observe is not called any more.
func stillWaiting(observe func(Note)) (progress func(dps.Step), stop func()) {
	var step atomic.Value
	step.Store(dps.StepDial)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		began, next := time.Now(), time.NewTimer(tellAfter)
		defer next.Stop()
		for {
			select {
			case <-next.C:
				took := time.Since(began)
				observe(Note{Kind: NoteWaiting, Took: took, Step: step.Load().(dps.Step)})
				next.Reset(took)
			case <-done:
				return
			}
		}
	})
	return func(s dps.Step) { step.Store(s) }, func() { close(done); wg.Wait() }
}
