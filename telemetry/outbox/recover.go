package outbox

import (
	"fmt"
	"path/filepath"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/format"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// adopt makes the layout the box's own. Lost messages become gaps, and messages that may not be
// synced wait for syncTail. adopt says whether the state differs from the slot.
func (b *Box) adopt(l *layout) (changed bool) {
	b.cur.mu.Lock()
	defer b.cur.mu.Unlock()
	b.mu.Lock()
	b.hasSlot, b.newest, b.segs = l.hasSlot, l.newest, l.segs
	b.badCursor = !l.hasSlot && l.noSlot != nil
	b.acks, b.next, b.gaps = l.acks(), l.next(), append(l.slot.Gaps, b.gaps...)
	b.identity, b.badIdentity, b.blind = l.identity, l.badIdentity != nil, false
	b.diskEnd, b.endID, b.endSeq = b.next, l.slot.EndID, l.slot.EndSeq
	b.id, b.seq, b.machine = l.slot.ID, l.lastSeq, l.slot.Machine
	b.cur.turn = l.slot.Turn
	if n := len(l.segs); n > 0 {
		s := l.segs[n-1]
		if s.num == l.newest { // else only a still newer segment overrules that file
			b.reopen = s
		}
		if s.end > l.slot.End {
			b.endID, b.endSeq = s.ID, s.seqAt(s.end-1)
		}
		if l.unsynced > 0 || l.torn {
			b.tail = &tail{num: s.num, from: s.size, to: s.size, end: b.next}
		}
		if l.unsynced > 0 {
			b.diskEnd, b.tail.from = l.firstOpen, l.unsynced
			if l.slot.End <= s.Base { // then the header may not be synced either
				b.tail.from = 0
			}
		}
	}
	mine := machineHash(b.opt.Machine)
	var none [16]byte
	switch {
	case !l.hasSlot:
		b.id, b.machine, changed = format.NewID(), mine, true
	case l.unsure:
		b.id, b.seq, b.machine, changed = format.NewID(), 0, mine, true
	case mine == none || mine == b.machine:
	case b.machine == none:
		b.machine, changed = mine, true
	default:
		b.id, b.seq, b.machine, changed = format.NewID(), 0, mine, true
	}
	if r := b.ring; r != nil { // filled while the box was blind; nothing of it was handed out
		r.base = b.next
		b.next = r.end()
	}
	b.reportFound(l)
	b.rouse(0)
	b.mu.Unlock()
	return b.loseUnfound(l) || changed
}

// reportFound reports everything that is wrong with a layout, except for lost messages. b.mu is
// held.
func (b *Box) reportFound(l *layout) {
	if !l.hasSlot && (l.noSlot != nil || len(l.segs) > 0) {
		p := Problem{
			Kind: Corrupt, Err: l.noSlot,
			Text: "the acknowledgements are lost: every message on the disk is sent again, and new messages get another outbox id",
		}
		if l.noSlot == nil {
			p.Kind, p.Text = Missing, filepath.Join(b.dir, cursorName)+" is gone: "+p.Text
		}
		b.problem(p)
	}
	if l.badIdentity != nil {
		b.problem(Problem{Kind: Corrupt, Err: l.badIdentity, Text: "the outbox in " + b.dir + " has lost the note for whom it was filled: the messages that wait in it are sent here"})
	}
	if l.unsure {
		b.problem(Problem{Kind: Corrupt, Text: "the newest messages in " + b.dir + " cannot be read: their file is set aside, and new messages get another outbox id"})
	}
	for _, num := range l.headless {
		b.problem(Problem{Kind: Corrupt, Err: format.ErrHeader, Text: "nothing can be read in " + b.path(num) + ": it is set aside as " + b.path(num) + badSuffix})
	}
	for _, num := range l.begun {
		b.problem(Problem{Kind: TornTail, Text: "the first write to " + b.path(num) + " never completed: it is set aside as " + b.path(num) + badSuffix})
	}
	for _, num := range l.halved {
		b.problem(Problem{Kind: Corrupt, Err: format.ErrHalved, Text: "one of the two headers of " + b.path(num) + " is damaged: the other one was used"})
	}
	if l.torn {
		b.problem(Problem{Kind: TornTail, Text: "a write to " + b.path(l.segs[len(l.segs)-1].num) + " that never completed was cut off"})
	}
}

// loseUnfound takes positions out of the line that were used, by the slot or the segments, but have
// no frame. b.cur.mu is held.
func (b *Box) loseUnfound(l *layout) (lost bool) {
	lose := func(id format.ID, pos, seq uint64, x loss, why string) {
		whole := x.Span
		if x.First < pos && seq <= pos-x.First { // there are no seqs below 1
			x.First = pos - seq + 1
		}
		n, first, last := uint64(0), uint64(0), uint64(0)
		b.mu.Lock()
		if x.First <= x.Last && id != 0 {
			n, first, last = b.miss(id, seq+x.First-pos, x.Span)
		}
		b.leave(whole)
		if n > 0 {
			lost = true
			b.lost += n
			b.problem(Problem{Kind: Corrupt, ID: id.String(), First: first, Last: last, Messages: n, Text: fmt.Sprintf("%d messages are missing: %s", n, why)})
		}
		b.mu.Unlock()
		if n > 0 {
			_ = b.setAside(SetAside{Lost: fmt.Sprintf("%s-%d..%d", id, first, last), Why: why, Raw: b.rawOf(l, x)})
		}
	}
	end := l.slot.Cursor
	if n := len(l.segs); n > 0 {
		if s := l.segs[0]; l.hasSlot && s.Base > l.slot.Cursor {
			lose(s.ID, s.Base, s.BaseSeq, loss{Span: runs.Of(l.slot.Cursor, s.Base-1)}, "the segment files before "+b.path(s.num)+" are gone")
		}
		s := l.segs[n-1]
		for _, x := range l.lost {
			lose(s.ID, s.Base, s.BaseSeq, x, "their checksums in "+b.path(s.num)+" are wrong")
		}
		end = s.end
	}
	if l.hasSlot && end < l.slot.End {
		x := loss{Span: runs.Of(end, l.slot.End-1)}
		if n := len(l.segs); n > 0 {
			x.from, x.to = l.segs[n-1].size, l.fileSize
		}
		lose(l.slot.EndID, l.slot.End-1, l.slot.EndSeq, x, "the newest segment ends before them")
	}
	return lost
}

// rawOf reads damaged bytes of the newest segment.
func (b *Box) rawOf(l *layout, x loss) []byte {
	if x.to == 0 {
		return nil
	}
	f, err := b.fs.Open(b.path(l.segs[len(l.segs)-1].num), readOnly)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	return b.raw(f, x.from, x.to)
}

const badSuffix = ".bad"

// clean puts useless files away. A file that cannot be put away does no harm.
func (b *Box) clean(l *layout) {
	b.mu.Lock()
	for _, num := range l.headless {
		b.trash = append(b.trash, waste{num, true})
	}
	for _, num := range l.begun {
		b.trash = append(b.trash, waste{num, true})
	}
	for _, num := range l.useless {
		b.trash = append(b.trash, waste{num, false})
	}
	b.mu.Unlock()
	b.reclaim()
}
