// Package audit holds what an outbox knows against what has arrived.
package audit

import (
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// Audit holds what an outbox knows against what has arrived, and says what became of every seq.
// First tell it of the outbox (Holds), then of every message that arrived, in order of arrival
// (Arrived): a message that arrives between the two is then seen twice and not missed. What it
// remembers is runs of seqs, so it needs little memory for any number of messages.
type Audit struct {
	// Stale says that the ledger was written before the outbox was read. A message that a process
	// has sent in between is in neither, and is not lost. So if a process has the outbox open, seqs
	// of its current outbox id above the greatest that arrived count as in flight.
	Stale bool

	accounts map[string]*account
	looked   bool
	current  string // outbox id
	lastSeq  uint64 // of that
	held     bool
	foreign  uint64
}

// account is what is known of one outbox id. The spans are seqs.
type account struct {
	arrived, queued, gaps, aside runs.Set
	highest                      uint64 // that arrived
	lowest                       uint64
	n, duplicated, reordered     uint64
	doubles, late                []string
}

// maxNamed bounds how many ids of one kind an Account names.
const maxNamed = 1000

// Account is what an Audit says of one outbox id. Every seq from From to Last arrived, or is
// queued, announced, in flight or lost.
type Account struct {
	Outbox     string   `json:"outbox"`
	Current    bool     `json:"current"` // what is appended now gets this outbox id
	From       uint64   `json:"from"`
	Last       uint64   `json:"last"` // the last seq that was given away, as far as is known
	Arrived    uint64   `json:"arrived"`
	Distinct   uint64   `json:"distinct"`
	Queued     uint64   `json:"queued"`    // still on the disk, and not arrived
	Announced  uint64   `json:"announced"` // neither, but a gap says so, or the quarantine has it
	SetAside   uint64   `json:"setAside"`  // of those: in the quarantine
	InFlight   uint64   `json:"inFlight"`  // not found, but newer than the ledger; see Audit.Stale
	Lost       uint64   `json:"lost"`      // neither, and nobody says so
	Reused     uint64   `json:"reused"`    // greatest arrived seq that will be given away again; else 0
	Duplicated uint64   `json:"duplicated"`
	Reordered  uint64   `json:"reordered"` // first arrivals behind a greater seq
	LostIDs    []string `json:"lostIds"`   // "<outbox id>-<first>..<last>"; at most 1000, as below
	GapIDs     []string `json:"announcedIds"`
	DoubleIDs  []string `json:"duplicatedIds"`
	LateIDs    []string `json:"reorderedIds"`
}

func (a *Audit) account(id string) *account {
	x := a.accounts[id]
	if x == nil {
		if a.accounts == nil {
			a.accounts = map[string]*account{}
		}
		x = &account{arrived: runs.Set{Cursor: 1}, queued: runs.Set{Cursor: 1}, gaps: runs.Set{Cursor: 1}, aside: runs.Set{Cursor: 1}}
		a.accounts[id] = x
	}
	return x
}

// Contents are what one look into an outbox found. They can be kept, so that an audit can be
// repeated when the outbox is gone.
type Contents struct {
	ID      string         // outbox id of the next message; "": not known
	LastSeq uint64         // the last seq that it gave away
	Held    bool           // a process has the outbox open
	Queued  []outbox.Range // what waits
	Gaps    []outbox.Range // what is announced as missing
	Aside   []outbox.Range // what the quarantine holds
}

// SplitRange reads what the String of a Range has written.
func SplitRange(text string) (r outbox.Range, ok bool) {
	first, to, several := strings.Cut(text, "..")
	if r.ID, r.First, ok = outbox.SplitID(first); !ok || !several {
		r.Last = r.First
		return r, ok
	}
	_, r.Last, ok = outbox.SplitID(r.ID + "-" + to)
	return r, ok && r.First < r.Last
}

// Look looks into the outbox in dir. Like Inspect it changes nothing.
func Look(dir string) (Contents, error) { return look(dir, true) }

// look is Look, with or without what waits.
func look(dir string, queued bool) (c Contents, err error) {
	l, err := outbox.Inspect(dir)
	if err != nil {
		return c, err
	}
	c = Contents{ID: l.ID, LastSeq: l.LastSeq, Held: l.Held, Gaps: l.Gaps}
	if queued {
		for r, err := range outbox.ReadQueue(dir) {
			if err != nil {
				return c, err
			}
			c.Queued = extend(c.Queued, r.ID)
		}
	}
	for q, err := range outbox.ReadQuarantine(dir) {
		if err != nil {
			return c, err
		}
		c.Aside = extend(c.Aside, q.ID)
	}
	return c, nil
}

// extend adds the seq of a message to the last range if it is the next one.
func extend(all []outbox.Range, id string) []outbox.Range {
	box, seq, ok := outbox.SplitID(id)
	if !ok {
		return all
	}
	if n := len(all); n > 0 && all[n-1].ID == box && all[n-1].Last+1 == seq {
		all[n-1].Last = seq
		return all
	}
	return append(all, outbox.Range{ID: box, First: seq, Last: seq})
}

// Holds takes in the outbox in dir: what is queued, what gaps it has to tell, what its quarantine
// holds. Like Inspect it changes nothing. It may be called again, after the arrivals, for the gaps
// that a running process has made meanwhile.
func (a *Audit) Holds(dir string) error {
	c, err := look(dir, !a.looked)
	if err != nil {
		return err
	}
	a.Take(c)
	return nil
}

// Take takes in what a look into the outbox has found, as Holds does.
func (a *Audit) Take(c Contents) {
	if !a.looked { // the first look counts: what came later nobody has asked about
		a.looked, a.current, a.lastSeq, a.held = true, c.ID, c.LastSeq, c.Held
		for _, r := range c.Queued {
			a.account(r.ID).queued.Add(runs.Of(r.First, r.Last))
		}
		if c.ID != "" {
			a.account(c.ID)
		}
	}
	for _, g := range c.Gaps {
		a.account(g.ID).gaps.Add(runs.Of(g.First, g.Last))
	}
	for _, q := range c.Aside {
		a.account(q.ID).aside.Add(runs.Of(q.First, q.Last))
	}
}

// Numbered takes in an outbox without its directory: its outbox id, and the last seq that it gave
// away. No process has it open, and nothing waits in it. It replaces the first call of Holds.
func (a *Audit) Numbered(id string, last uint64) {
	a.looked, a.current, a.lastSeq, a.held = true, id, last, false
	a.account(id)
}

// Seen says what a message is, compared with the messages that arrived before it.
type Seen int

// What a message can be.
const (
	Foreign Seen = iota // no outbox makes such an id
	First               // it arrived for the first time, and no greater seq before it
	Late                // it arrived for the first time, but behind a greater seq
	Again               // it had arrived before
)

// Arrived takes in one message: its id and its property gap, "" if it has none. It counts a message
// with an id that no outbox makes, and ignores it otherwise.
func (a *Audit) Arrived(id, gap string) Seen {
	box, seq, ok := outbox.SplitID(id)
	if !ok {
		a.foreign++
		return Foreign
	}
	x := a.account(box)
	x.n++
	if first, last, ok := outbox.SplitGap(gap); ok {
		x.gaps.Add(runs.Of(first, last))
	}
	if x.arrived.Add(runs.Of(seq, seq)) == 0 {
		x.duplicated++
		if len(x.doubles) < maxNamed {
			x.doubles = append(x.doubles, id)
		}
		return Again
	}
	seen := First
	if seq < x.highest {
		seen = Late
		x.reordered++
		if len(x.late) < maxNamed {
			x.late = append(x.late, id)
		}
	}
	x.highest = max(x.highest, seq)
	if x.lowest == 0 || seq < x.lowest {
		x.lowest = seq
	}
	return seen
}

// Foreign is how many messages arrived whose ids no outbox makes.
func (a *Audit) Foreign() uint64 { return a.foreign }

// Accounts are the verdicts, by outbox id, the current one first. partial says that the beginning
// of what arrived is not known: then nothing below the lowest seq that arrived is asked for.
//
// While a process has the outbox open, nothing above the last seq of the first look is asked for.
func (a *Audit) Accounts(partial bool) (all []Account) {
	for id, x := range a.accounts {
		all = append(all, x.close(id, a, partial))
	}
	slices.SortFunc(all, func(x, y Account) int {
		switch {
		case x.Current == y.Current && x.Outbox < y.Outbox, x.Current && !y.Current:
			return -1
		default:
			return 1
		}
	})
	return all
}

func (x *account) close(id string, a *Audit, partial bool) Account {
	v := Account{
		Outbox: id, Current: id == a.current, From: 1, Last: max(x.highest, x.queued.Max()), Arrived: x.n, Distinct: x.n - x.duplicated,
		Duplicated: x.duplicated, Reordered: x.reordered, DoubleIDs: x.doubles, LateIDs: x.late,
	}
	if v.Current && (a.held || a.lastSeq > v.Last) {
		v.Last = a.lastSeq
	}
	if v.Current && !a.held && x.highest > a.lastSeq { // most likely an older copy was put back
		v.Last, v.Reused = a.lastSeq, x.highest
	}
	if partial {
		v.From = x.lowest
		if x.lowest == 0 { // then all that is known is what is queued
			v.From = v.Last + 1
		}
	}
	for _, missing := range x.arrived.Open(runs.Of(v.From, v.Last)) {
		queued := missing.Count()
		for _, gone := range x.queued.Open(missing) {
			for _, s := range x.gaps.Open(gone) {
				for _, lost := range x.aside.Open(s) {
					if a.Stale && a.held && v.Current && lost.Last > x.highest {
						moving := runs.Of(max(lost.First, x.highest+1), lost.Last)
						v.InFlight += moving.Count()
						if lost.Last = moving.First - 1; lost.First > lost.Last {
							continue
						}
					}
					v.Lost += lost.Count()
					v.LostIDs = name(v.LostIDs, id, lost)
				}
			}
			for _, s := range x.gaps.Among(gone) {
				v.GapIDs = name(v.GapIDs, id, s)
			}
			v.Announced += gone.Count()
			for _, s := range x.aside.Among(gone) {
				v.SetAside += s.Count()
			}
			queued -= gone.Count()
		}
		v.Queued += queued
	}
	v.Announced -= v.Lost + v.InFlight
	return v
}

func name(all []string, id string, s runs.Span) []string {
	if len(all) == maxNamed {
		return all
	}
	return append(all, outbox.Range{ID: id, First: s.First, Last: s.Last}.String())
}
