package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// isLoss says whether one of the missing positions of a segment has not left the line.
func (b *Box) isLoss(s segment, missing runs.Span) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := runs.Of(missing.First, min(missing.Last, b.lastOf(s)))
	return held.First <= held.Last && len(b.acks.Open(held)) > 0
}

// lose takes damaged messages of a segment out of the line, and reports those that had not left.
// The file is kept.
func (b *Box) lose(s segment, lost runs.Span, raw []byte, why error) {
	b.cur.mu.Lock()
	defer b.cur.mu.Unlock()
	b.mu.Lock()
	n, first, last := uint64(0), uint64(0), uint64(0)
	if held := runs.Of(lost.First, min(lost.Last, b.lastOf(s))); held.First <= held.Last {
		n, first, last = b.miss(s.ID, s.seqAt(held.First), held)
	}
	b.leave(lost) // also positions of messages that were in memory only when their process ended
	if n > 0 {
		b.lost += n
		p := Problem{Kind: Corrupt, ID: s.ID.String(), First: first, Last: last, Messages: n, Err: why}
		if errors.Is(why, fs.ErrNotExist) {
			p.Kind, p.Text = Missing, fmt.Sprintf("%d messages are lost: their file %s is gone", n, b.path(s.num))
		} else {
			p.Text = fmt.Sprintf("%d messages are damaged in %s: what is left of them is set aside in %s, and the file is kept as %s",
				n, b.path(s.num), quarantineName, segName(s.num)+badSuffix)
			if i := slices.IndexFunc(b.segs, func(x *segment) bool { return x.num == s.num }); i >= 0 {
				b.segs[i].aside = true
			}
		}
		b.problem(p)
	}
	b.mu.Unlock()
	if n > 0 {
		_ = b.setAside(SetAside{Lost: fmt.Sprintf("%s-%d..%d", s.ID, first, last), Why: why.Error(), Raw: raw})
		b.saveSoon()
	}
}

// lastOf returns the last position that can belong to a segment. What its file lacks may have been
// another outbox id's, whose own file is gone. b.mu is held.
func (b *Box) lastOf(s segment) uint64 {
	seq := uint64(format.Farthest)
	if s.ID == b.id {
		seq = b.seq
	}
	for _, x := range b.segs {
		if x.num > s.num && x.ID == s.ID {
			seq = min(seq, x.BaseSeq-1)
		}
	}
	return s.Base + seq - s.BaseSeq
}

// unreadable deals with a segment that cannot be read from pos on. Reading is tried again, with
// growing pauses. No message leaves the line before it is certain that the data is bad or the file
// is gone.
func (b *Box) unreadable(s segment, pos uint64, err error) {
	k := passing
	switch {
	case isDamage(err):
		k = damage
	case errors.Is(err, fs.ErrNotExist) && b.isMissing(b.path(s.num)):
		k = missing
	}
	b.mu.Lock()
	i := slices.IndexFunc(b.segs, func(x *segment) bool { return x.num == s.num })
	if i < 0 { // it was deleted in the meantime
		b.mu.Unlock()
		return
	}
	x, now := b.segs[i], time.Now()
	if x.trouble == nil {
		x.trouble = &trouble{}
	}
	t := x.trouble
	believed := t.fail(pos, k, err, now)
	if !believed && now.Sub(t.told) >= tellAgain {
		t.told = now
		what := "it is tried again until it can be"
		if k == damage {
			what = fmt.Sprintf("it is tried again for %v", doubtFor)
		}
		b.problem(Problem{Kind: Unreadable, Err: err, Text: fmt.Sprintf("%s cannot be read now: what waits in it is kept, and %s", b.path(s.num), what)})
	}
	if believed {
		x.trouble = nil
		x.damaged = k == damage
	}
	b.mu.Unlock()
	switch {
	case !believed:
	case k == missing:
		b.loseGone()
	case !errors.Is(err, errDamaged): // nobody knows where the bad part ends
		b.lose(s, runs.Of(pos, s.end-1), nil, err)
	}
}

// readable ends the trouble of a segment when reading has passed the position that had it.
func (b *Box) readable(num, pos uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.segs {
		if x.num != num || x.trouble == nil || pos <= x.trouble.pos {
			continue
		}
		if !x.trouble.told.IsZero() {
			b.problem(Problem{Kind: Readable, Text: b.path(num) + " can be read again"})
		}
		x.trouble = nil
		b.rouse(0)
	}
}
