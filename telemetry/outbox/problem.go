package outbox

import "fmt"

// Kind is what a Problem is about.
type Kind int

// The kinds of problems.
const (
	TornTail     Kind = iota // an incomplete write was cut off; nothing of it was promised
	Corrupt                  // messages or a file are damaged; what cannot be read is set aside
	Dropped                  // messages left the line by the policy, for room or for age
	Quarantined              // a message was set aside because it can never be sent
	Degraded                 // the disk does not work; messages are kept in memory only
	Recovered                // the disk works again
	AcksNotSaved             // acknowledgements cannot be written down: a restart would send again
	AcksSaved                // acknowledgements are written down again
	Unreadable               // the next message cannot be read now; reading waits
	Readable                 // the next message can be read again
	Missing                  // files of the outbox, or its whole directory, are gone
)

func (k Kind) String() string {
	switch k {
	case TornTail:
		return "torn-tail"
	case Corrupt:
		return "corrupt"
	case Dropped:
		return "dropped"
	case Quarantined:
		return "quarantined"
	case Degraded:
		return "degraded"
	case Recovered:
		return "recovered"
	case AcksNotSaved:
		return "acks-not-saved"
	case AcksSaved:
		return "acks-saved"
	case Unreadable:
		return "unreadable"
	case Readable:
		return "readable"
	case Missing:
		return "missing"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Problem is something that a person may want to know.
type Problem struct {
	Kind        Kind
	ID          string // outbox id of First and Last; "" if it is not about messages
	First, Last uint64 // seqs, both included; 0 if it is not about messages, or they are not known
	Messages    uint64 // how many; fewer than seqs if some had left before
	Err         error  // the cause, if there is one
	Text        string // one sentence
}

// problem keeps p until the locks are released. b.mu is held.
func (b *Box) problem(p Problem) {
	if b.opt.Report != nil {
		b.problems = append(b.problems, p)
		b.news.Store(true)
	}
}

// report hands on what was kept: problems, and that readers may go on. No lock is held.
func (b *Box) report() {
	if !b.news.Load() {
		return
	}
	b.news.Store(false)
	b.callReaders()
	b.mu.Lock()
	problems := b.problems
	b.problems = nil
	b.mu.Unlock()
	for _, p := range problems {
		b.opt.Report(p)
	}
}
