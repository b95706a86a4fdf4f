package hub

import (
	"errors"
	"io"
	"testing"
	"time"
)

func TestExpiredTokenIsNamed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.dialer.Token = KeyToken(time.Now, "AAECAwQFBgcICQoLDA0ODw==", time.Minute)
		stop := w.Serve("10.0.0.1", func(p *peer) {
			p.Welcome()
			go func() {
				time.Sleep(2 * time.Minute)
				_ = p.Raw.Close()
			}()
			p.Telemetry()
		})
		defer stop()
		began := time.Now()
		l := w.dial("10.0.0.1")
		<-serve(l).renew
		if at := time.Since(began); at < 48*time.Second || at > 54*time.Second {
			t.Errorf("renewal is due after %v of a minute", at)
		}
		if err := l.Err(); !errors.Is(err, ErrTokenExpired) {
			t.Error(err)
		}
		l.Abort(nil)
	})
}

// TestReasonsOfTheUserStayAsTheyAre: what ends a link may be no business of a hub, and is then not
// taken for a failure of one.
func TestReasonsOfTheUserStayAsTheyAre(t *testing.T) {
	disk := errors.New("the disk is full")
	before := &Error{Phase: PhaseSession, Host: "another", Err: io.EOF}
	for _, v := range []struct{ why, want error }{
		{disk, disk}, {before, before}, {nil, ErrClosed}, {ErrRenewal, ErrRenewal}, {&Error{Phase: PhaseSession, Host: "10.0.0.1", Err: ErrRenewal}, ErrRenewal},
	} {
		bubble(t, func(t *testing.T, w *world) {
			stop := w.Serve("10.0.0.1", (*peer).Mute)
			defer stop()
			l := w.dial("10.0.0.1")
			l.Abort(v.why)
			e, described := errors.AsType[*Error](l.Err())
			if !errors.Is(l.Err(), v.want) || described == errors.Is(v.why, disk) || described && !errors.Is(e, before) && e.Host != "10.0.0.1" {
				t.Errorf("%v became %#v", v.why, l.Err())
			}
		})
	}
}
