// Package node says what a message is inside a data flow graph, and what the nodes of a graph do to
// it: a source hands messages in, operators change, drop, route or collect them, and a destination
// takes what comes out.
//
// The package has no behaviour of its own but that of logical time. Package graph runs the nodes.
// The native transforms and the WebAssembly modules implement the operators, and the endpoints
// implement sources and destinations. Names are those of Azure IoT Operations (Microsoft's pages
// "Data flow graphs overview" and "Develop WebAssembly modules and graph definitions for data flow
// graphs").
package node

import (
	"context"
	"errors"
	"time"
)

// Message is a message inside a graph. An operator may replace every field, but it never changes
// the bytes of Payload, Correlation or Key in place, nor the elements of Properties: another arm of
// the graph may share them.
type Message struct {
	Time        Time   // logical time: of the event, or of the arrival if the message does not say
	Topic       string // the input topic until an operator writes another one
	TopicSet    bool   // an operator has written Topic; ${outputTopic} is unset without it
	InputTopic  string // the input topic, once Topic is another one; whoever writes Topic first sets it
	ContentType string // empty: not said
	Payload     []byte
	Properties  []Property // MQTT user properties or Kafka headers, in order; keys may repeat
	Schema      string     // reference of the payload's schema, such as aio-sr://name:1; empty: none
	Snapshot    *Snapshot  // a picture instead of a payload; nil for every other message

	// ID names an output for ever, so that a consumer can recognise a repetition. The engine sets
	// it on messages that leave the graph; a CloudEvents id that came in is kept.
	ID string

	Expires       time.Time // when the message is no longer wanted; zero: never
	Retain        bool      // the MQTT retain flag
	Text          bool      // the MQTT payload format indicator says UTF-8
	ResponseTopic string    // of an MQTT request; empty: none
	Correlation   []byte    // of an MQTT request; nil: none
	Key           []byte    // of a Kafka record; nil: none
}

// Property is one user property of MQTT 5, or one header of Kafka.
type Property struct{ Key, Value string }

// Snapshot is one picture, as the WebAssembly interface wasm-graph:processor has it.
type Snapshot struct {
	Format        string
	Width, Height uint32
	Frame         []byte
}

// Size returns how many bytes of memory a message is counted with where memory is bounded: its
// texts and bytes, and a fixed part.
func (m *Message) Size() int {
	n := 256 + len(m.Topic) + len(m.InputTopic) + len(m.ContentType) + len(m.Payload) + len(m.Schema) + len(m.ID) +
		len(m.ResponseTopic) + len(m.Correlation) + len(m.Key)
	for _, p := range m.Properties {
		n += 32 + len(p.Key) + len(p.Value)
	}
	if m.Snapshot != nil {
		n += len(m.Snapshot.Format) + len(m.Snapshot.Frame)
	}
	return n
}

// Get returns the value of the first property with a key.
func (m *Message) Get(key string) (value string, ok bool) {
	for i := range m.Properties {
		if m.Properties[i].Key == key {
			return m.Properties[i].Value, true
		}
	}
	return "", false
}

// The kinds of operators. One goroutine calls an operator at a time. A message is the operator's
// until its method returns; what it keeps, it copies, but it may keep the bytes of Payload. An
// error says that this message failed: the graph drops it, counts it, and goes on. An operator that
// is also an io.Closer is closed when its graph stops. An operator that is also [Stateful] takes
// part in checkpoints.
type (
	// Map changes a message.
	Map interface {
		Map(m *Message) error
	}

	// Filter says whether a message goes on. True passes, as in the WebAssembly interface.
	Filter interface {
		Filter(m *Message) (pass bool, err error)
	}

	// Branch chooses the arm of a message.
	Branch interface {
		Branch(m *Message, at Time) (arm bool, err error)
	}

	// Delay gives a message a new logical time. The graph holds it until the frontier reaches that
	// time. A time before at counts as at.
	Delay interface {
		Delay(m *Message, at Time) (Time, error)
	}

	// Accumulate folds messages of equal logical time into staged. For the first call of such a
	// time, staged has an empty payload; for further ones it has the result so far. items is never
	// empty. The graph sends staged on as soon as the frontier has passed the time.
	Accumulate interface {
		Accumulate(staged *Message, items []Message) error
	}

	// Window collects messages and gives out fewer. What it gives out depends on the calls alone,
	// and on no clock, so that a replay gives out the same.
	Window interface {
		// Add takes one message at its logical time, and gives the windows that it closes to emit.
		Add(m *Message, at Time, emit func(*Message)) error
		// Advance says that the frontier has reached at, and gives the windows that end by then to
		// emit. Due returns the earliest end of an open window; ok is false if none is open.
		Advance(at Time, emit func(*Message))
		Due() (end Time, ok bool)
		// Flush gives all open windows to emit, the earliest first, although they have not ended:
		// the rules are about to change.
		Flush(emit func(*Message))
	}

	// Stateful is an operator that remembers something from one message to the next. Save appends
	// all that it remembers to out. Restore puts it back, in an operator of the same configuration
	// that has seen no message; its error says that the bytes are not those of Save, and that
	// nothing has changed.
	Stateful interface {
		Save(out []byte) []byte
		Restore(saved []byte) error
	}
)

// Source is where messages come from. It reconnects and tries again by itself.
type Source interface {
	// Run hands in messages, in the order of their arrival, until ctx ends. Then it returns nil. An
	// error says that a person must act, or that the source is worth a new start later.
	//
	// take blocks while the graph has no room. After ctx has ended, it takes nothing and returns
	// false. The source must not acknowledge a message that was not taken.
	Run(ctx context.Context, take func(d Delivery) bool) error
}

// Delivery is a message on its way in.
type Delivery struct {
	Message Message
	Source  int      // which subscription or partition it is of; order is kept within each
	From    Receiver // learns that the message is safe; nil: nobody wants to know
	Ticket  uint64   // what From calls the message

	// Position is what the source calls the message for ever, such as topic, partition and offset
	// of a Kafka record; empty: it has no such name. It becomes part of the ids of outputs.
	Position string
}

// Receiver acknowledges messages to their source. Acked is called once for each message that was
// taken, unless the graph stops before the message is safe, and in any order. It must not block,
// and any goroutine may call it. The tickets are valid until Acked returns.
type Receiver interface {
	Acked(tickets []uint64)
}

// Destination is where messages go. It connects, reconnects and sends again by itself.
type Destination interface {
	// Run does the destination's work until ctx ends. Then it returns nil. What it has not
	// completed by then, it never completes. An error is as that of a Source.
	Run(ctx context.Context) error
	// Send takes messages over, in order, and keeps the slice's elements but not the slice. It
	// blocks while the destination has as much in hand as it may, until ctx ends. It returns how
	// many messages it took; fewer than len(ms) only with an error. It may be called before Run,
	// and from one goroutine at a time. tickets has one ticket for each message.
	Send(ctx context.Context, ms []Message, to Completion, tickets []uint64) (n int, err error)
}

// ErrExpired says that a message was not sent, because nobody wants it any more.
var ErrExpired = errors.New("the message has expired")

// Completion learns what became of messages that a destination took: nil says that they are safe
// where they were to go. An error says that they never will be, whoever tries again: the message is
// at fault, or it is [ErrExpired]. A destination that cannot be reached is no such error. The
// tickets are valid until Done returns. Done must not block, and any goroutine may call it.
type Completion interface {
	Done(tickets []uint64, err error)
}
