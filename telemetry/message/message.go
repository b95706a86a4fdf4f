// Package message says what a message is on its way in and on its way out, and how its sender
// learns what became of it.
//
// Sources and flows hand a [Message] to the outbox. The outbox gives it an id, and the drain makes
// an [Outgoing] of it. A link or an endpoint sends the Outgoing, and reports to a [Completion].
// Each of them encodes the fields in its own way: only package hub knows the names that IoT Hub has
// for them.
package message

import "time"

// Message is what a producer hands in.
type Message struct {
	Body            []byte // is sent byte for byte
	ContentType     string // such as application/json; empty: not said
	ContentEncoding string // such as utf-8; empty: not said
	// Created is when the sample was taken; zero: not known. The outbox sets a zero time to that of
	// the append, and returns times in UTC.
	Created    time.Time
	Properties map[string]string // the application's own; may be nil
	Component  string            // the part of the device that the sample is of; empty: the device itself
}

// Outgoing is a message on its way out.
type Outgoing struct {
	Message
	ID     string // names the message for ever; empty: it has no name
	Gap    string // "<first>-<last>": messages before this one that may be missing; empty: none
	Ticket uint64 // what the sender of the message calls it; a Completion gets it back
}

// Completion is told what became of messages: nil means that they were acknowledged, an error says
// why they will not be. The tickets are valid until Done returns. Any goroutine may call Done, and
// Done may send more messages. The caller reads no further acknowledgements until Done returns, so
// Done must not wait for a network.
type Completion interface {
	Done(tickets []uint64, err error)
}
