package memnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func connect(t *testing.T, n *Net) (client, server net.Conn) {
	t.Helper()
	l, err := n.Listen("tcp", "10.0.0.1:8883")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	client, err = n.DialContext(t.Context(), "tcp", "10.0.0.1:8883")
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestOrderlyEndIsReadAfterTheData(t *testing.T) {
	client, server := connect(t, New())
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	got, err := io.ReadAll(server)
	if err != nil || string(got) != "hello" {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("write to a closed peer: %v", err)
	}
}

func TestResetLosesWhatWasUnderWay(t *testing.T) {
	client, server := connect(t, New())
	_, _ = client.Write([]byte("hello"))
	_ = client.(*conn).SetLinger(0)
	_ = client.Close()
	n, err := server.Read(make([]byte, 9))
	if n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %d, %v", n, err)
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Fatalf("%T is not a *net.OpError", err)
	}
}

func TestRefusedWithoutListener(t *testing.T) {
	_, err := New().DialContext(t.Context(), "tcp", "10.0.0.9:1")
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
}

func TestCutPathIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client, server := connect(t, n)
		n.Cut("10.0.0.1:8883")
		if _, err := client.Write([]byte("into the void")); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		_, err := n.DialContext(ctx, "tcp", "10.0.0.1:8883")
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() || time.Since(start) != 3*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		_ = client.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := client.Write(make([]byte, 2*bufferBytes)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a full buffer on a cut path: %v", err)
		}
	})
}

func TestDelayIsKeptExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		n.SetDelay(25 * time.Millisecond)
		start := time.Now()
		client, server := connect(t, n)
		if d := time.Since(start); d != 50*time.Millisecond {
			t.Fatalf("dial took %v", d)
		}
		_, _ = client.Write([]byte("a"))
		_, _ = client.Write([]byte("b"))
		_ = client.Close()
		got, _ := io.ReadAll(server)
		if d := time.Since(start); d != 75*time.Millisecond || string(got) != "ab" {
			t.Fatalf("%q after %v", got, d)
		}
	})
}

func TestDeadlineCanBeMovedAndLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := connect(t, New())
		_ = server.SetReadDeadline(time.Now().Add(time.Second))
		_ = server.SetReadDeadline(time.Time{})
		go func() {
			time.Sleep(time.Hour)
			_, _ = client.Write([]byte("late"))
		}()
		b := make([]byte, 4)
		if _, err := io.ReadFull(server, b); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(-time.Second))
		if _, err := server.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	})
}

func TestFullBufferHoldsTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := connect(t, New())
		wrote := false
		go func() {
			_, _ = client.Write(make([]byte, bufferBytes+1))
			wrote = true
		}()
		synctest.Wait()
		if wrote {
			t.Fatal("a writer got more into the buffer than it holds")
		}
		_, _ = io.ReadFull(server, make([]byte, bufferBytes+1))
		synctest.Wait()
		if !wrote {
			t.Fatal("the writer was not woken")
		}
	})
}

func TestClosedListenerResetsItsBacklog(t *testing.T) {
	n := New()
	l, _ := n.Listen("tcp", "10.0.0.1:0")
	c, err := n.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	if _, err := n.DialContext(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
}

func TestSYNsAreDroppedUntilRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		l, err := n.Listen("tcp", "10.0.0.1:8883")
		if err != nil {
			t.Fatal(err)
		}
		restore, err := l.(interface {
			DropSYNs() (restore func() error, err error)
		}).DropSYNs()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := n.DialContext(ctx, "tcp", "10.0.0.1:8883"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a dial into the silence ended with %v", err)
		}
		time.AfterFunc(time.Second, func() { _ = restore() })
		c, err := n.DialContext(t.Context(), "tcp", "10.0.0.1:8883")
		if err != nil {
			t.Fatalf("a dial that waited for the end of it: %v", err)
		}
		_ = c.Close()
		_ = l.Close()
	})
}

// TestDelayChangesUnderAConnection: a connection follows the delay of the network, but no data
// overtakes data that was sent before.
func TestDelayChangesUnderAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client, server := connect(t, n)
		n.SetDelay(time.Second)
		_, _ = client.Write([]byte("a"))
		n.SetDelay(0)
		_, _ = client.Write([]byte("b"))
		began := time.Now()
		b := make([]byte, 2)
		if _, err := io.ReadFull(server, b); err != nil || string(b) != "ab" || time.Since(began) != time.Second {
			t.Fatalf("read %q, %v after %v", b, err, time.Since(began))
		}
		_ = client.Close()
		_ = server.Close()
	})
}

// TestWeatherKeepsTheOrder: a lost segment arrives at least a retransmission timeout later, and so
// does everything that was sent behind it.
func TestWeatherKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		client, server := connect(t, n)
		n.SetDelay(50 * time.Millisecond)
		n.SetWeather(300*time.Millisecond, 0.1, 1)
		began := time.Now()
		go func() {
			for i := range 250 {
				_, _ = client.Write([]byte{byte(i)})
				time.Sleep(20 * time.Millisecond)
			}
			_ = client.Close()
		}()
		late, b := 0, make([]byte, 1)
		for i := range 250 {
			if _, err := io.ReadFull(server, b); err != nil || b[0] != byte(i) {
				t.Fatalf("%d came in place %d: %v", b[0], i, err)
			}
			took := time.Since(began) - time.Duration(i)*20*time.Millisecond
			if took < 50*time.Millisecond {
				t.Errorf("number %d took %v", i, took)
			}
			if took > 350*time.Millisecond {
				late++
			}
		}
		if late < 25 {
			t.Errorf("%d of 250 came late: with one in ten lost it is these and those behind them", late)
		}
	})
}

// TestAWriteIsNotPartedByAnother as with a socket, also if it waits for room in the middle.
func TestAWriteIsNotPartedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := connect(t, New())
		long, short := bytes.Repeat([]byte("a"), 3*bufferBytes), []byte("b")
		go func() { _, _ = server.Write(long) }()
		synctest.Wait()
		go func() { _, _ = server.Write(short) }()
		synctest.Wait()
		got := make([]byte, len(long)+len(short))
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, append(long, short...)) {
			t.Errorf("the short write stands at %d of %d, %v", bytes.IndexByte(got, 'b'), len(long), err)
		}
		_, _ = client.Close(), server.Close()
	})
}

// TestAWriteThatWaitsForAnotherEndsWithTheConnection although the other one still waits for room.
func TestAWriteThatWaitsForAnotherEndsWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server := connect(t, New())
		ended := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := server.Write(make([]byte, 2*bufferBytes))
				ended <- err
			}()
			synctest.Wait()
		}
		_ = server.Close()
		for range 2 {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("the write ended with %v", err)
			}
		}
	})
}
