package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/hubhop-iot/hubhop/telemetry/outbox/disk"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/runs"
)

// isMissing says that a file does not exist: its directory can be read and does not list it.
func (b *Box) isMissing(name string) bool {
	names, err := b.list()
	return err == nil && !slices.Contains(names, filepath.Base(name))
}

// list returns the names in the outbox's directory; none if the directory itself is certainly gone.
func (b *Box) list() ([]string, error) {
	names, err := b.fs.List(b.dir)
	if errors.Is(err, fs.ErrNotExist) && b.isDirGone() {
		return nil, nil
	}
	return names, err
}

// isDirGone says that the directory does not exist: a directory above it can be read and does not
// list it, or the next one on the way to it.
func (b *Box) isDirGone() bool {
	for at := filepath.Clean(b.dir); ; {
		above := filepath.Dir(at)
		if above == at {
			return false
		}
		names, err := b.fs.List(above)
		switch {
		case err == nil:
			return !slices.Contains(names, filepath.Base(at))
		case !errors.Is(err, fs.ErrNotExist):
			return false
		}
		at = above
	}
}

// loseGone takes messages whose files are gone out of the line. The next records carry the gap.
func (b *Box) loseGone() {
	b.mu.Lock()
	before := slices.Clone(b.segs)
	end := b.diskEnd
	b.mu.Unlock()
	names, err := b.list()
	if err != nil {
		return
	}
	for i, s := range before {
		if slices.Contains(names, segName(s.num)) {
			continue
		}
		b.mu.Lock()
		copied := *s
		isIn := slices.Contains(b.segs, s) // else the box itself deleted it
		b.mu.Unlock()
		if i+1 < len(before) {
			end = before[i+1].Base
		}
		copied.end = min(copied.end, end)
		if isIn && copied.Base < copied.end {
			b.lose(copied, runs.Of(copied.Base, copied.end-1), nil, fmt.Errorf("%s: %w", b.path(s.num), fs.ErrNotExist))
		}
	}
}

// remake makes the directory anew if it is gone. The same outbox id goes on there with the messages
// in memory. It returns false if the directory is not gone, or cannot be made. b.cur.syncing is
// held.
func (b *Box) remake() bool {
	if !b.isDirGone() || b.fs.MkdirAll(b.dir) != nil {
		return false
	}
	lock, err := b.fs.Lock(b.dir)
	if err != nil {
		return false // another process has made it and holds its lock
	}
	_ = b.lock.Close() // the lock of the old directory, which has no name any more
	b.lock = lock
	b.mu.Lock()
	b.problem(Problem{Kind: Missing, Text: "the directory " + b.dir + " was gone and has been made anew: what waited in it and is not on the disk any more is lost"})
	b.mu.Unlock()
	return true
}

// create opens a file, and makes it or the directory if they are missing. The caller leads.
func (b *Box) create(name string, flag int) (disk.File, error) {
	f, err := b.fs.Open(name, flag|create)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	b.cur.syncing.Lock()
	remade := b.remake()
	if remade {
		err = b.renewCursor()
	}
	b.cur.syncing.Unlock()
	if !remade || err != nil {
		return nil, err
	}
	b.loseGone()
	return b.fs.Open(name, flag|create)
}
