package flow

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
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
)

// watched are the directories below that belong to the manifests. Secrets and config maps do not:
// each connection reads them anew.
var watched = []string{"schemas", "graphs", "modules"}

// watcher notices changes of a directory.
type watcher struct {
	dir    string
	notify *fsnotify.Watcher // nil: the system gives no notices
	seen   uint64            // what the files looked like
	target string            // what the directory is, if it is a symbolic link
}

// watch begins to notice changes. tell hears that the system does not help.
func watch(dir string, tell func(text string)) *watcher {
	w := &watcher{dir: dir}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		w.notify = nil
	}
	if err == nil {
		err = w.add()
	}
	if err != nil {
		tell(fmt.Sprintf("changes of %s are noticed within %v, because the system gives no notices: %v", dir, lookEvery, err))
	}
	w.seen = w.look()
	return w
}

// add watches what the directory is now. A rollout may replace it as a whole.
func (w *watcher) add() error {
	if w.notify == nil {
		return nil
	}
	w.target, _ = filepath.EvalSymlinks(w.dir) // "" if there is none at the moment
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
		rest(time.Now().Add(lookEvery))
		timer := time.NewTimer(lookEvery)
		noticed := w.wait(ctx, timer.C)
		timer.Stop()
		if ctx.Err() != nil {
			return false
		}
		if noticed && !w.calm(ctx) {
			return false
		}
		if now, _ := filepath.EvalSymlinks(w.dir); now != w.target && now != "" {
			_ = w.add() // without it, the next look notices
		}
		if now := w.look(); now != w.seen || noticed {
			w.seen = now
			return true
		}
	}
}

// wait returns true with a notice that counts.
func (w *watcher) wait(ctx context.Context, timeout <-chan time.Time) bool {
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
		case <-timeout:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// calm waits until no notice has come for a moment. It returns false when ctx has ended.
func (w *watcher) calm(ctx context.Context) bool {
	for began := time.Now(); time.Since(began) < settleMax; {
		timer := time.NewTimer(settle)
		noticed := w.wait(ctx, timer.C)
		timer.Stop()
		if ctx.Err() != nil {
			return false
		}
		if !noticed {
			return true
		}
	}
	return true
}

// look returns a number that changes with the files: their names, sizes and times, behind symbolic
// links.
func (w *watcher) look() uint64 {
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
		_ = filepath.WalkDir(filepath.Join(w.dir, sub), func(path string, d fs.DirEntry, err error) error {
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
