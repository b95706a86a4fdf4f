package mqtt

import (
	"net"
	"sync"
	"syscall"
	"time"
)

// wire is the connection under TLS. It gathers the records that TLS makes of what a session writes.
// So all of them leave in one write, and what the peer does not take at once can be left to a
// goroutine that may wait.
type wire struct {
	net.Conn
	raw  syscall.RawConn // nil: each write may have to wait
	once func(fd uintptr) bool

	mu        sync.Mutex
	gathering bool // TLS itself may write too, to answer the peer; gathering keeps all in order
	sealed    []byte
	sent      int // of sealed
}

// use is called when the TLS handshake is done.
func (w *wire) use() {
	if c, ok := w.Conn.(syscall.Conn); ok && canTry {
		w.raw, _ = c.SyscallConn()
		w.once = w.writeOnce
	}
}

// canTry reports whether try can write without waiting.
func (w *wire) canTry() bool { return w.raw != nil }

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	if w.gathering {
		defer w.mu.Unlock()
		w.sealed = append(w.sealed, b...)
		return len(b), nil
	}
	w.mu.Unlock()
	return w.Conn.Write(b) // nobody begins to gather meanwhile: TLS lets one writer in at a time
}

// SetLinger sets how a close of the connection treats what was not sent yet.
func (w *wire) SetLinger(sec int) error {
	if c, ok := w.Conn.(interface{ SetLinger(sec int) error }); ok {
		return c.SetLinger(sec)
	}
	return nil
}

// seal writes b to conn, the TLS connection above. The records that conn makes of it stay here
// until try or write sends them.
func (w *wire) seal(conn net.Conn, b []byte) error {
	w.mu.Lock()
	w.gathering = true
	w.mu.Unlock()
	_, err := conn.Write(b)
	return err
}

// try writes what the peer takes at once. It reports whether that was all.
func (w *wire) try() bool {
	if w.left() == nil {
		return true
	}
	_ = w.raw.Write(w.once) // whoever calls write next gets the error too
	return w.left() == nil
}

func (w *wire) writeOnce(fd uintptr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent += max(0, writeNow(fd, w.sealed[w.sent:]))
	return true
}

// write writes all that is left, and waits for it.
func (w *wire) write() error {
	for {
		b := w.left()
		if b == nil {
			return nil
		}
		_ = w.SetWriteDeadline(time.Now().Add(writeDeadline))
		n, err := w.Conn.Write(b[:min(len(b), writeAtOnce)])
		_ = w.SetWriteDeadline(time.Time{})
		w.mu.Lock()
		w.sent += n
		w.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// left returns what is still to be written. When nothing is, the wire stops gathering.
func (w *wire) left() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sent < len(w.sealed) {
		return w.sealed[w.sent:]
	}
	w.gathering, w.sealed, w.sent = false, w.sealed[:0], 0
	return nil
}

// rest gives back the memory that only a busy session needs.
func (w *wire) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.gathering {
		w.sealed = nil
	}
}
