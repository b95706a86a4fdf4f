// Package namedfile reads files that a user names, up to a bound. It never waits for a special
// file: it names such a file in an error instead.
package namedfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/secret"
)

const (
	// MaxKeyBytes is the most that a file with a key may have. A key has 88 characters.
	MaxKeyBytes = 64 << 10

	pipePatience = 30 * time.Second // how long a pipe may be silent
)

// Read reads the whole file that a flag or key names. It returns an error if the file has more
// than most bytes or is a special file. Errors name the key, the file and what to do, and wrap the
// cause.
func Read(key, path string, most int64) ([]byte, error) {
	return readWithin(key, path, most, pipePatience)
}

// readWithin is Read with another limit for a silent pipe.
func readWithin(key, path string, most int64, patience time.Duration) ([]byte, error) {
	f, err := Open(key, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	_ = f.SetReadDeadline(time.Now().Add(patience)) // pipes have one, files have none
	data, err := ReadUpTo(f, most)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("%s: nothing came from %s in %v; what should write there?", key, secret.Quotable(path), patience)
	case err != nil:
		return nil, fmt.Errorf("%s: %s: %w", key, secret.Quotable(path), Cause(err))
	}
	return data, nil
}

// ErrTooLarge says that a file has too many bytes to be what the flag asks for.
var ErrTooLarge = errors.New("too large")

// ReadUpTo reads to the end. It returns ErrTooLarge if there are more than most bytes.
func ReadUpTo(r io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(data)) > most {
		return nil, fmt.Errorf("%w: more than %d kB; this is another file than is asked for here", ErrTooLarge, most>>10)
	}
	return data, err
}

// errNoFile is fs.ErrNotExist without a text, for an error whose sentence already says so.
var errNoFile error = noFileError{}

type noFileError struct{}

func (noFileError) Error() string        { return "" }
func (noFileError) Is(target error) bool { return target == fs.ErrNotExist }

// Open opens the file that a flag or key names. It opens a pipe that the shell hands over
// (/dev/stdin, or <(command)). It refuses every other special file without opening it, because the
// open may wait for ever, or rewind a tape.
func Open(key, path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil && secret.Looks(path) { // a long name of a file that is there may look like one
		return nil, fmt.Errorf("%s is the name of a file, and what was given looks like the secret itself; "+
			"put it in a file and name that%w", key, errNoFile)
	}
	if err == nil {
		err = refuseSpecial(path, info)
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // #nosec G304 -- the user names it
	}
	if err == nil { // another file may have taken its place since the first look
		if info, err = f.Stat(); err == nil {
			err = refuseSpecial(path, info)
		}
		if err == nil {
			return f, nil
		}
		_ = f.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: there is no file %s%w", key, secret.Quotable(path), errNoFile)
	}
	return nil, fmt.Errorf("%s: %s: %w", key, secret.Quotable(path), Cause(err))
}

// handedOver matches the names that a shell gives to open pipes.
var handedOver = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(/dev/stdin|/dev/fd/[0-9]+|/proc/(self|[0-9]+)/fd/[0-9]+)$`)
})

func refuseSpecial(path string, info fs.FileInfo) error {
	what := ""
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return nil
	case mode&fs.ModeNamedPipe != 0:
		if handedOver().MatchString(filepath.ToSlash(path)) {
			return nil
		}
		what = "a named pipe"
	case mode.IsDir():
		what = "a directory"
	case mode&fs.ModeSocket != 0:
		what = "a socket"
	default:
		what = "a device"
	}
	return fmt.Errorf("this is %s; name a file", what)
}

// Cause returns an error of the system without the file name, which the sentence already has.
func Cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// ReadKey reads a key from a file, without a byte order mark and without blanks around it.
func ReadKey(key, path string) (string, error) {
	data, err := Read(key, path, MaxKeyBytes)
	if err != nil {
		return "", err
	}
	text, err := PlainText(data)
	if err != nil {
		return "", fmt.Errorf("%s: %s %w", key, secret.Quotable(path), err)
	}
	if secret.HoldsPrivateKey(text) {
		return "", fmt.Errorf("%s: %s holds a private key in PEM, and a SAS key is asked for; a certificate's key is given with --cert and --key", key, secret.Quotable(path))
	}
	return strings.TrimSpace(string(text)), nil
}

// PlainText returns a file's text without the byte order mark that some editors of Windows write.
func PlainText(data []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return nil, errors.New("is UTF-16 text; save it as UTF-8")
	case !utf8.Valid(data):
		return nil, errors.New("is not UTF-8 text; save it as UTF-8")
	}
	return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), nil
}
