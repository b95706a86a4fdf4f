// Package home keeps what a device needs after a restart: a directory below the state directory,
// with locks, small files with checksums, and the list of messages that were handled. The disk may
// fail at any call; the device goes on, and the home tries again.
package home

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hubhop-iot/hubhop/internal/plain"
)

// ErrStateDir says that the state directory cannot be used.
var ErrStateDir = errors.New("the state directory cannot be used")

// ErrLocked says that another process runs the same device from the same state directory.
var ErrLocked = errors.New("another hubhop is running this device")

// The names in a home.
const (
	ContentFile = "home.json" // which device it belongs to, and which files are in it
	StateFile   = "state.json"
	ClockFile   = "clock.json"
	HandledFile = "c2d-handled.jsonl"
	// ReportedFile has the reported properties that data flows have set.
	ReportedFile = "reported.json"
	OutboxName   = "outbox"
	LockFile     = "lock"
	Doubtful     = ".doubtful" // ending of a file that is kept aside
)

const (
	maxHomeFile = 1 << 20          // bytes of a file that is read whole
	tryAgain    = 10 * time.Second // between two tries of a failed read or write
	doubtAfter  = time.Minute      // a file that has failed for so long with EIO counts as damaged
)

// Home is a device's directory below the state directory, with the lock, the cached hub, the outbox
// and the handled messages. If the disk fails, Home says so once, keeps the data in memory, and
// tries again. It never overwrites a file that it has not read, and keeps a file that makes no
// sense aside.
type Home struct {
	id   string
	dir  string
	disk Disk
	tell func(text string) // is given each sentence about a fault; may be nil

	io     sync.Mutex // held while a whole file is read or written
	files  []string   // names of the files that were made here, as home.json has them; sorted
	known  bool       // home.json was read, or does not exist
	found  bool       // home.json existed
	sealed bool       // a file had a checksum, so a version that writes home.json has run here
	linked []string   // names of the files that were told to be symbolic links

	mu       sync.Mutex
	locks    []io.Closer
	troubles map[string]string       // file → sentence about what the disk does not do; this and the next two are nil on a disk that works
	since    map[string]time.Time    // file → when the disk first could not read it
	again    map[string]func() error // file → what to try again
	next     time.Time
}

// homeContent is home.json.
type homeContent struct {
	DeviceID string   `json:"deviceId"`
	Files    []string `json:"files"`
}

// New returns the home of a device, which is not open. tell is given each sentence about a fault;
// it may be nil.
func New(d Disk, stateDir, deviceID string, tell func(string)) *Home {
	return &Home{id: deviceID, dir: Dir(stateDir, deviceID), disk: d, tell: tell}
}

// refuses says that an error needs a person, who must choose another directory; any other error may
// pass.
func refuses(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) ||
		errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENAMETOOLONG)
}

// Open makes the directory and locks it. It returns only errors that need a person; after any other
// failure of the disk it tries again later.
func (h *Home) Open() error {
	needsPerson := func(err error) bool { return errors.Is(err, ErrLocked) || errors.Is(err, ErrStateDir) }
	err := h.lock()
	if err != nil && !needsPerson(err) {
		err = h.lock() // a second try, because an error of a disk may pass at once
	}
	if needsPerson(err) {
		h.Close()
		return err
	}
	h.Note(LockFile, err, "the directory of this device cannot be locked, so a second process would not be noticed", h.lock)
	h.inspect()
	h.readContent()
	return nil
}

// lock makes the directory and takes two locks, of which one is enough. The lock on the directory
// needs no room on the disk and cannot be deleted. The lock on a file is for systems that lock no
// directories.
func (h *Home) lock() error {
	const next = "give a directory that this user may write with --state-dir"
	if err := h.disk.MkdirAll(h.dir); err != nil {
		if refuses(err) {
			return fmt.Errorf("%w: %w; %s", ErrStateDir, err, next)
		}
		return err
	}
	h.mu.Lock()
	held := len(h.locks) > 0
	h.mu.Unlock()
	if held {
		return nil
	}
	if info, err := h.disk.Lstat(h.Path(LockFile)); err == nil && !info.Mode().IsRegular() {
		// It is not opened, because the open may wait, or change another file.
		return fmt.Errorf("%w: %s is no plain file; move it away", ErrStateDir, h.Path(LockFile))
	}
	ofDir, derr := h.disk.Lock(h.dir, true)
	if errors.Is(derr, ErrTaken) {
		return h.taken()
	}
	ofFile, ferr := h.disk.Lock(h.Path(LockFile), false)
	refused := ferr != nil && (errors.Is(ferr, ErrTaken) || refuses(ferr))
	if refused && ofDir != nil {
		_ = ofDir.Close()
	}
	switch {
	case errors.Is(ferr, ErrTaken):
		return h.taken()
	case refused:
		return fmt.Errorf("%w: %w; %s", ErrStateDir, ferr, next)
	case ofDir == nil && ofFile == nil:
		return ferr
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range []io.Closer{ofDir, ofFile} {
		if l != nil {
			h.locks = append(h.locks, l)
		}
	}
	if ofFile != nil {
		h.sign()
	}
	return nil
}

// sign writes the id of this process into the lock file.
func (h *Home) sign() {
	// Without the file the message of a second process names no process.
	if f, err := h.disk.Open(h.Path(LockFile), os.O_WRONLY|os.O_TRUNC); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
		_ = f.Close()
	}
}

// taken returns the error for a lock that another process has, with the id of that process.
func (h *Home) taken() error {
	who := "that process"
	if b, err := h.readAll(LockFile); err == nil {
		if pid := strings.TrimSpace(string(b)); pid != "" && len(pid) < 12 && strings.Trim(pid, "0123456789") == "" {
			who = "process " + pid
		}
	}
	return fmt.Errorf("%w: %s is locked; stop %s, or give this one another --state-dir or --device-id", ErrLocked, h.dir, who)
}

// inspect warns if other users can change the directory, or if it is a symbolic link.
func (h *Home) inspect() {
	if runtime.GOOS == "windows" { // its modes do not say who may write
		return
	}
	for _, dir := range []string{filepath.Dir(h.dir), h.dir} {
		if info, err := h.disk.Stat(dir); err == nil && info.Mode().Perm()&0o002 != 0 {
			h.say("every user of this machine may write to %s, and so change what the device believes and sends; chmod 700 it", dir)
		}
	}
	if info, err := h.disk.Lstat(h.dir); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		h.say("%s is a symbolic link; its target is used", h.dir)
	}
}

// readContent reads home.json, and tells which of its files are missing.
func (h *Home) readContent() {
	var c homeContent
	found, err := h.Load(ContentFile, &c, func(bool) error {
		if c.DeviceID != h.id {
			return fmt.Errorf("it is of the device %s", plain.Quoted(c.DeviceID))
		}
		return nil
	})
	if err != nil {
		return // without home.json nobody knows what is missing
	}
	h.io.Lock()
	h.known, h.found, h.files = true, found, c.Files
	h.io.Unlock()
	var gone []string
	for _, name := range c.Files {
		if name != filepath.Base(name) || len(name) > 255 {
			continue
		}
		if _, err := h.disk.Lstat(h.Path(name)); errors.Is(err, fs.ErrNotExist) {
			gone = append(gone, name)
		}
	}
	if len(gone) > 0 {
		h.say("%s is gone from %s, where it was at the last run; %s", strings.Join(gone, ", "), h.dir, without(gone...))
	}
}

// CheckContent tells that home.json itself is missing. It is called after all other files were
// read.
func (h *Home) CheckContent() {
	h.io.Lock()
	gone := h.known && !h.found && h.sealed
	h.io.Unlock()
	if gone {
		h.say("%s is missing, although it was here, so hubhop does not know which other files are missing", h.Path(ContentFile))
	}
}

// without says what the loss of these files means.
func without(names ...string) string {
	says := map[string]string{
		StateFile:   "the device asks DPS for its hub",
		ClockFile:   "samples that wait keep the times they have",
		HandledFile: "a cloud-to-device message that comes again is handled again",

		ReportedFile: "what data flows reported before is not reported to a new hub",

		OutboxName: "what waited in it is lost, unless it is put back",
	}
	var all []string
	for _, name := range names {
		if s := says[name]; s != "" {
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return "the device goes on without it"
	}
	return strings.Join(all, "; ")
}

// Made is has for callers that do not hold io, such as the outbox. It does nothing if there is no
// such file.
func (h *Home) Made(name string) {
	h.io.Lock()
	defer h.io.Unlock()
	if _, err := h.disk.Lstat(h.Path(name)); err == nil {
		h.has(name)
	}
}

// has notes in home.json that a file is here, so that a later run can tell if it is gone. io is
// held.
func (h *Home) has(name string) {
	if name == ContentFile || !h.known {
		return
	}
	i, found := slices.BinarySearch(h.files, name)
	if found {
		return
	}
	files := append(append(append(make([]string, 0, len(h.files)+1), h.files[:i]...), name), h.files[i:]...)
	b, err := Seal(homeContent{h.id, files})
	if err == nil && h.replace(ContentFile, b) == nil { // on a failure the next call tries again
		h.files = files
	}
}

// errDoubtful says that the content of a file makes no sense.
var errDoubtful = errors.New("doubtful")

// readAll reads a whole file. It returns errDoubtful for a special file or one above maxHomeFile.
func (h *Home) readAll(name string) ([]byte, error) {
	path := h.Path(name)
	info, err := h.disk.Lstat(path)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if !slices.Contains(h.linked, name) {
			h.linked = append(h.linked, name)
			h.say("%s is a symbolic link; it is read, and replaced by a file when it is written", path)
		}
		info, err = h.disk.Stat(path)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is no file", errDoubtful)
	}
	f, err := h.disk.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxHomeFile+1))
	if err == nil && len(b) > maxHomeFile {
		err = fmt.Errorf("%w: it has more than %d bytes", errDoubtful, maxHomeFile)
	}
	return b, err
}

// read is readAll with a second try. It returns errDoubtful if EIO has lasted for doubtAfter.
func (h *Home) read(name string) ([]byte, error) {
	b, err := h.readAll(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errDoubtful) {
		b, err = h.readAll(name)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !errors.Is(err, syscall.EIO) {
		delete(h.since, name)
		return b, err
	}
	if h.since == nil {
		h.since = map[string]time.Time{}
	}
	if h.since[name].IsZero() {
		h.since[name] = time.Now()
	}
	if time.Since(h.since[name]) >= doubtAfter {
		err = fmt.Errorf("%w: the disk cannot read it: %w", errDoubtful, err)
	}
	return b, err
}

// Load reads a file of the home into v, and asks check whether v can be right. If the file makes no
// sense, Load keeps it aside and says so. found is false without a usable file. An error is one of
// the disk: the file may be good, so it must not be overwritten.
func (h *Home) Load(name string, v any, check func(sealed bool) error) (found bool, err error) {
	h.io.Lock()
	defer h.io.Unlock()
	b, err := h.read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err == nil:
		var sealed bool
		if sealed, err = Unseal(b, v); err == nil {
			err = check(sealed)
		}
		if err == nil {
			h.sealed = h.sealed || sealed
			h.has(name) // because home.json may be gone, or lack it
			return true, nil
		}
	case !errors.Is(err, errDoubtful):
		return false, err
	}
	return false, h.aside(name, err)
}

// aside renames a file that makes no sense, so that a person can look at it.
func (h *Home) aside(name string, why error) error {
	path := h.Path(name)
	reason := strings.TrimPrefix(plain.Line(why.Error(), plain.Most), errDoubtful.Error()+": ")
	err := h.disk.Rename(path, path+Doubtful)
	for n := 2; inTheWay(err) && n < 10; n++ {
		err = h.disk.Rename(path, fmt.Sprintf("%s%s-%d", path, Doubtful, n))
	}
	if err != nil {
		return fmt.Errorf("it makes no sense (%s) and cannot be set aside: %w", reason, err)
	}
	h.say("%s makes no sense (%s); it is kept as %s; %s", path, reason, name+Doubtful, without(name))
	return nil
}

// inTheWay says that there is a directory in the place of a file, or a file in the place of a
// directory.
func inTheWay(err error) bool {
	return errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist)
}

// Save replaces a whole file: a reader, or a crash, finds the old content or the new.
func (h *Home) Save(name string, v any) error {
	b, err := Seal(v)
	if err != nil {
		return err
	}
	h.io.Lock()
	defer h.io.Unlock()
	if err := h.replace(name, b); err != nil {
		return err
	}
	h.has(name)
	return nil
}

// replace writes a small file so that a crash leaves the old content or the new: it writes a new
// file in the same directory, syncs it, renames it, and syncs the directory.
func (h *Home) replace(name string, content []byte) (err error) {
	next := h.Path("." + name + ".new")
	_ = h.disk.Remove(next) // a crash may have left it
	f, err := h.disk.Open(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if errors.Is(err, fs.ErrNotExist) {
		if err = h.anew(); err == nil {
			f, err = h.disk.Open(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		}
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = h.disk.Remove(next)
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = h.disk.Rename(next, h.Path(name))
	}
	if err == nil {
		h.syncDir()
	}
	return err
}

// anew makes the directory if somebody has removed it, or if that failed before.
func (h *Home) anew() error {
	h.mu.Lock()
	had := len(h.locks) > 0
	h.mu.Unlock()
	if had {
		h.say("the directory %s was removed while the device runs; it is made anew, without its old files", h.dir)
		h.files = nil
		h.Close()
	}
	return h.lock()
}

func (h *Home) syncDir() {
	// An error is ignored, because some systems cannot sync a directory.
	if d, err := h.disk.Open(h.dir, os.O_RDONLY); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

func (h *Home) say(format string, args ...any) {
	if h.tell != nil {
		h.tell(fmt.Sprintf(format, args...))
	}
}

// Close gives the locks back.
func (h *Home) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.locks {
		_ = l.Close()
	}
	h.locks = nil
}

// Path returns the path of a file in the home.
func (h *Home) Path(name string) string { return filepath.Join(h.dir, name) }
