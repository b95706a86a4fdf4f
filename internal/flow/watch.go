package flow

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// How changes are noticed. An editor or a rollout changes several files at once, so a change counts
// when nothing has changed for a moment. Some file systems give no notices, and the directories
// below are not watched, so all is looked at from time to time as well.
const (
	settle    = 200 * time.Millisecond
	settleMax = 2 * time.Second
	lookEvery = 10 * time.Second
	seekEvery = time.Second // while there is no directory: nobody gives notice of a new one
)

// watched are the directories below that belong to the manifests, and the one that fills the state
// store. Secrets and config maps do not: each connection reads them anew.
var watched = []string{"schemas", "graphs", "modules", tablesDir}

// watcher notices changes of a directory.
type watcher struct {
	dir    string
	every  time.Duration     // between two looks
	notify *fsnotify.Watcher // nil: the system gives no notices
	seen   uint64            // what the files looked like
	is     os.FileInfo       // the directory that is watched; nil: there is none at the moment
}

// watch begins to notice changes. tell hears that the system does not help.
func watch(dir string, tell func(text string)) *watcher {
	w := &watcher{dir: dir, every: lookEvery}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		w.notify = nil
	}
	if added := w.add(); err == nil {
		err = added
	}
	if err != nil {
		tell(fmt.Sprintf("changes of %s are noticed within %v, because the system gives no notices: %v", dir, lookEvery, err))
	}
	w.seen = w.look()
	return w
}

// add watches what the directory is now. A rollout may replace it as a whole: with another one,
// with another target of a symbolic link, or with a new one that has the number of the old one.
func (w *watcher) add() error {
	was := w.is
	var err error
	if w.is, err = os.Stat(w.dir); err != nil {
		w.is = nil
		return err
	}
	if w.notify != nil {
		_ = w.notify.Add(filepath.Join(w.dir, tablesDir)) // without it, or without its notices, a look notices
	}
	if w.notify == nil || was != nil && os.SameFile(was, w.is) && slices.Contains(w.notify.WatchList(), w.dir) {
		return nil
	}
	_ = w.notify.Remove(w.dir) // what is watched under this name may be gone already
	return w.notify.Add(w.dir)
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close() // nothing was written
	}
}

// changed returns true when something has changed, and false when ctx has ended. rest is told until
// when it waits.
func (w *watcher) changed(ctx context.Context, rest func(due time.Time)) bool {
	for {
		pause := w.every
		if w.is == nil {
			pause = min(pause, seekEvery)
		}
		rest(time.Now().Add(pause))
		noticed := w.wait(ctx, pause)
		if ctx.Err() != nil {
			return false
		}
		now := w.look()
		if !noticed && now == w.seen {
			continue
		}
		if now = w.calm(ctx, now); ctx.Err() != nil {
			return false
		}
		w.seen = now
		return true
	}
}

// wait returns true with a notice that counts, and false after the pause or when ctx has ended.
func (w *watcher) wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	var events chan fsnotify.Event
	var errs chan error
	if w.notify != nil {
		events, errs = w.notify.Events, w.notify.Errors
	}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				events = nil
			} else if e.Op != fsnotify.Chmod {
				return true
			}
		case _, ok := <-errs: // notices were lost
			if !ok {
				errs = nil
			} else {
				return true
			}
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// calm waits until the files have looked the same for a moment, with or without notices, and
// returns how they look. A file that is written all the time does not hold up the others for long.
func (w *watcher) calm(ctx context.Context, was uint64) (now uint64) {
	for began := time.Now(); time.Since(began) < settleMax; {
		if w.wait(ctx, settle) {
			continue
		}
		if now = w.look(); now == was || ctx.Err() != nil {
			return now
		}
		was = now
	}
	return w.look()
}

// look returns a number that changes with the files: their names, sizes and times, behind symbolic
// links. From before it on, the directory that is there now is watched.
func (w *watcher) look() uint64 {
	_ = w.add() // without it, a later look notices
	h := fnv.New64a()
	note := func(path string) {
		info, err := os.Stat(path)
		if err != nil {
			_, _ = fmt.Fprintf(h, "%s %v\n", path, errors.Is(err, fs.ErrNotExist))
			return
		}
		target, _ := filepath.EvalSymlinks(path)
		_, _ = fmt.Fprintf(h, "%s %s %d %d\n", path, target, info.Size(), info.ModTime().UnixNano())
	}
	entries, _ := os.ReadDir(w.dir) // none: that is a change too
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			note(filepath.Join(w.dir, e.Name()))
		}
	}
	for _, sub := range watched {
		root := filepath.Join(w.dir, sub)
		if target, err := filepath.EvalSymlinks(root); err == nil {
			root = target // else a walk would not go in
		}
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				note(path)
			}
			return nil
		})
	}
	return h.Sum64()
}

// ErrDirectory says that the name of the manifests' directory is that of something else.
var ErrDirectory = errors.New("it is no directory; name the directory with the manifests")

// isDirectory returns an error for what is no directory that can be read.
func isDirectory(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("%w; name the directory with the manifests", err)
	case !info.IsDir():
		return fmt.Errorf("%s: %w", dir, ErrDirectory)
	}
	_, err = os.ReadDir(dir)
	return err
}
