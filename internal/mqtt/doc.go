// Package mqtt is MQTT 3.1.1 on the wire for everybody on our side. It knows nothing of Azure: which
// topics and names there are is the business of its callers.
//
// [Endpoint] dials a server and lets it prove its name. [Reader] reads the server's packets: it
// checks the length of each before it takes memory for it, and the form of each that a server may
// send. [Connect], [Message] and the Append functions make this side's packets.
package mqtt
