package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// Look is what Inspect sees.
type Look struct {
	ID          string // the outbox id of what is appended next
	LastSeq     uint64 // its last seq; 0: none yet
	Queued      uint64 // records in the line
	QueuedBytes int64  // of the segments that they are in
	FirstPos    uint64 // places of the oldest and the newest record in the line; 0 if there is none
	LastPos     uint64
	Segments    int
	Gaps        []string // "<outbox id>-<first>..<last>": seqs that are missing and that nobody has been told of for sure
	Quarantined bool     // there is a quarantine file
}

// Inspect looks at an outbox without a lock, and changes nothing. If a process has it open the picture may be a moment old, and lacks
// what is in memory only.
func Inspect(dir string) (Look, error) {
	disk := Disk()
	l, err := load(disk, dir)
	for range 3 { // a running process may delete a file between our list and our look
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		l, err = load(disk, dir)
	}
	if err != nil {
		return Look{}, err
	}
	if !l.hasSlot && len(l.segs) == 0 {
		return Look{}, fmt.Errorf("outbox: there is none in %s", dir)
	}
	a, next := l.acks(), l.next()
	for _, x := range l.lost {
		a.add(x.span)
	}
	if n := len(l.segs); n == 0 {
		a.add(span{1, next - 1})
	} else if end := l.segs[n-1].end; end < next {
		a.add(span{end, next - 1})
	}
	look := Look{LastSeq: l.lastSeq, Queued: next - a.cursor - a.above, Segments: len(l.segs)}
	if l.hasSlot {
		look.ID = l.slot.id.String()
	}
	for _, s := range l.segs {
		if s.end > a.cursor {
			look.QueuedBytes += s.size
		}
	}
	if look.Queued > 0 {
		look.FirstPos, look.LastPos = a.next(1), next-1
		for a.has(look.LastPos) {
			look.LastPos--
		}
	}
	for _, g := range l.slot.gaps {
		look.Gaps = append(look.Gaps, fmt.Sprintf("%s-%d..%d", g.id, g.first, g.last))
	}
	if f, err := disk.Open(filepath.Join(dir, quarantineName), readOnly); err == nil {
		look.Quarantined = true
		_ = f.Close()
	}
	return look, nil
}
