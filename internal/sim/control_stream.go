package sim

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// showLedger serves GET /api/ledger.
func (s *Sim) showLedger(r *http.Request) (any, error) {
	messages, err := flagParam(r, "messages")
	if err != nil {
		return nil, err
	}
	after := int64(0)
	if text := r.URL.Query().Get("after"); text != "" {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			return nil, azure.Errorf(400, "", "after is %.64q, must be a number of messages", text)
		}
	}
	device := r.URL.Query().Get("device")
	if !messages {
		return s.Ledger(device, false), nil
	}
	l, kept := s.ledger.Read(device, after)
	l.Known = s.knows(device, l.Received)
	return &messageStream{l, kept}, nil
}

// messageStream is an answer that has the counts of a ledger and its messages. The messages are
// decoded one by one while they are written, because all of them decoded may need several times the
// memory of the ledger.
type messageStream struct {
	ledger Ledger
	kept   ledger.Kept
}

// write writes the answer, until the client leaves.
func (m *messageStream) write(w io.Writer) {
	m.ledger.Messages = nil
	text := azure.EncodeJSON(m.ledger)
	out := bufio.NewWriterSize(w, 16<<10)
	_, _ = out.Write(text[:len(text)-1])
	_, _ = out.WriteString(`,"messages":[`)
	comma := false
	for message := range m.kept.All() {
		if comma {
			_ = out.WriteByte(',')
		}
		comma = true
		if _, err := out.Write(azure.EncodeJSON(message)); err != nil {
			return // the client has left
		}
	}
	_, _ = out.WriteString("]}\n")
	_ = out.Flush()
}

// sseIdle is the time after which a silent stream of events gives a sign of life.
const sseIdle = 30 * time.Second

// streamEvents serves GET /api/events until the client leaves or the simulator stops.
func (s *Sim) streamEvents(w http.ResponseWriter, r *http.Request) {
	events, leave, err := s.events.read()
	if err != nil {
		w.Header().Set("Connection", "close")
		writeControl(w, nil, err)
		return
	}
	defer leave()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	write := func(format string, args ...any) bool {
		_ = out.SetWriteDeadline(time.Now().Add(wire.WriteTimeout))
		_, err := fmt.Fprintf(w, format, args...)
		return err == nil && out.Flush() == nil
	}
	idle := time.NewTimer(sseIdle)
	defer idle.Stop()
	for ok := write(": watching\n\n"); ok; {
		select {
		case e, open := <-events:
			if !open {
				return
			}
			ok = write("event: %s\ndata: %s\n\n", e.Kind, azure.EncodeJSON(e))
		case <-idle.C:
			ok = write(": still here\n\n")
		case <-r.Context().Done():
			return
		}
		idle.Reset(sseIdle)
	}
}
