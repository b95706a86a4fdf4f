package status

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// SocketName is the control socket in a device's directory.
	SocketName = "hubhop.sock"
	// SocketPathName is a file beside it that has the path of the socket, where the path in the
	// directory would be too long for the system.
	SocketPathName = SocketName + ".path"

	// maxSocketPath is the longest path of a socket that every system takes: macOS has 104 bytes
	// for it, with a zero at the end.
	maxSocketPath = 103

	// lookEvery is how often a socket is looked for that somebody may have deleted. Each look wakes
	// the process of an idle device.
	lookEvery = 30 * time.Second
	// retryEvery is how soon a socket is tried again that could not be made, or has failed.
	retryEvery = 2 * time.Second

	dialLimit = time.Second // to learn whether somebody serves a socket
)

// Socket is where a device's control socket is.
type Socket struct {
	Dir string // the device's directory, which only this user may read
	// Short is a directory of this user for sockets, where the path in Dir is too long. It may not
	// exist yet.
	Short string

	every time.Duration                   // instead of lookEvery and retryEvery, for tests; 0: these
	wrap  func(net.Listener) net.Listener // what is served instead, for tests; nil: the socket itself
}

// ShortDir returns the directory for sockets whose own path would be too long: below the user's
// runtime directory, else below the system's for temporary files.
func ShortDir(runtimeDir string) string {
	if filepath.IsAbs(runtimeDir) && len(runtimeDir) < maxSocketPath/2 {
		return filepath.Join(runtimeDir, "hubhop")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("hubhop-%d", os.Getuid()))
}

// path returns where the socket is to be. short says that it is not in Dir. It goes by the absolute
// path, so that everybody comes to the same result, from whatever directory.
func (k Socket) path() (path string, short bool) {
	path = filepath.Join(k.Dir, SocketName)
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if len(path) <= maxSocketPath {
		return path, false
	}
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(k.Short, hex.EncodeToString(sum[:8])+".sock"), true
}

// errServed says that another process serves the socket.
var errServed = errors.New("another process serves it")

// listen makes the socket anew, with the mode 0600. It replaces the socket of a process that has
// died, but neither one that is served nor a file that is no socket.
func (k Socket) listen(ctx context.Context) (net.Listener, string, error) {
	path, short := k.path()
	if short {
		if err := ownDir(k.Short); err != nil {
			return nil, path, err
		}
		if len(path) > maxSocketPath {
			return nil, path, fmt.Errorf("the path %s is too long for a socket; give a shorter --state-dir", path)
		}
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, path, err
	}
	config := net.ListenConfig{Control: private}
	l, err := listenUnix(ctx, config, path)
	if err != nil {
		return nil, path, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the path may have another socket by then
	if err = os.Chmod(path, 0o600); err == nil && short {
		err = replaceFile(filepath.Join(k.Dir, SocketPathName), path+"\n")
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(path)
		return nil, path, err
	}
	return l, path, nil
}

// listenUnix is config.Listen. Package net panics if the kernel cannot name a new socket, such as
// with ENOBUFS from getsockname; that is an error here like others.
func listenUnix(ctx context.Context, config net.ListenConfig, path string) (l net.Listener, err error) {
	defer func() {
		if p := recover(); p != nil {
			l, err = nil, fmt.Errorf("the socket %s has no name: %v", path, p)
		}
	}()
	return config.Listen(ctx, "unix", path)
}

// removeStale removes the socket of a dead process.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !isSocket(info) {
		return fmt.Errorf("%s is no socket; move it away", path)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%s: %w", path, errServed)
	}
	return os.Remove(path)
}

// ownDir makes a directory that only this user may enter. It refuses one that somebody else may
// have prepared.
func ownDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || !isOwn(info) {
		return fmt.Errorf("%s is not a directory that only this user may enter; remove it, or give a shorter --state-dir", dir)
	}
	return nil
}

// replaceFile writes a small file, which a reader finds whole or not at all.
func replaceFile(path, content string) error {
	next := path + ".new"
	_ = os.Remove(next)
	if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// ServeSocket serves the control socket until ctx ends, and removes it. It makes the socket anew if
// somebody deletes it or its directory, and tries again after a pause if it cannot be made or
// fails. What is wrong is reported once; nothing of it ends the device.
func (s *Server) ServeSocket(ctx context.Context, k Socket) {
	told := ""
	for ctx.Err() == nil {
		what := "cannot be made"
		l, path, err := k.listen(ctx)
		if err == nil {
			if k.wrap != nil {
				l = k.wrap(l)
			}
			what, err = "has failed", s.serveUntilGone(ctx, l, path, cmp.Or(k.every, lookEvery))
			if _, short := k.path(); short {
				_ = os.Remove(filepath.Join(k.Dir, SocketPathName))
			}
		}
		if err == nil {
			told = ""
			continue
		}
		if text := err.Error(); text != told && ctx.Err() == nil {
			told = text
			s.report(fmt.Sprintf("hubhop status cannot reach this device: its control socket %s (%s); everything else goes on", what, text))
		}
		select {
		case <-time.After(cmp.Or(k.every, retryEvery)):
		case <-ctx.Done():
		}
	}
}

// serveUntilGone serves a socket until ctx ends or the socket is not at its path any more. It
// returns an error if the socket fails before that.
func (s *Server) serveUntilGone(ctx context.Context, l net.Listener, path string, every time.Duration) error {
	look := time.NewTicker(every)
	defer look.Stop()
	made, err := os.Lstat(path)
	ended := make(chan struct{})
	var failure error // set before ended
	go func() {
		defer close(ended)
		failure = s.Serve(ctx, l, OnSocket)
	}()
	isThere := func() bool {
		now, nerr := os.Lstat(path)
		return err == nil && nerr == nil && os.SameFile(made, now)
	}
	failed := false
	for waiting := true; waiting; {
		select {
		case <-look.C:
			waiting = isThere()
		case <-ended:
			waiting, failed = false, true
		case <-ctx.Done():
			waiting = false
		}
	}
	if isThere() {
		_ = os.Remove(path)
	}
	_ = l.Close()
	<-ended
	if failed {
		return failure // nil if ctx has ended
	}
	return nil // what Serve says of the close is no news
}

// FindSocket returns the path of the control socket of the device in dir, as ServeSocket has made
// it.
func FindSocket(dir string) (string, error) {
	path, short := Socket{Dir: dir}.path()
	var missing error
	if !short {
		if _, missing = os.Lstat(path); missing == nil {
			return path, nil
		}
	}
	path, err := readPath(filepath.Join(dir, SocketPathName)) // also if the device came here by a longer path
	if err != nil {
		if missing != nil && errors.Is(err, fs.ErrNotExist) {
			err = missing
		}
		return "", err
	}
	if !filepath.IsAbs(path) || len(path) > maxSocketPath {
		return "", fmt.Errorf("%s has no path of a socket", filepath.Join(dir, SocketPathName))
	}
	return path, nil
}

// readPath returns what a file says of a path. Of another file it reads no more than is needed to
// refuse it, also if that one never ends.
func readPath(name string) (string, error) {
	if info, err := os.Stat(name); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, 2*maxSocketPath))
	return strings.TrimSpace(string(b)), err
}
