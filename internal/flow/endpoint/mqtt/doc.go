// Package mqtt is an MQTT 5 broker as source and as destination of a data flow graph (Microsoft's
// pages "Configure MQTT data flow endpoints" and "Configure data flow endpoints").
//
// A source keeps one session at the broker, under a client id that stays, with Clean Start 0. It
// acknowledges a message only after the graph did, and in the order of receipt. So what is not
// acknowledged stays at the broker, over every end of this process and of the connection. A graph
// without room makes the source read nothing, and the receive maximum keeps the rest in the queue
// of the broker.
//
// A destination publishes in order, as many messages at a time as both sides allow, and completes
// each with its PUBACK. After a reconnect it sends what is left again, in the same order.
//
// Both connect again by themselves, with a schedule of their own, and read certificates, passwords
// and tokens anew for each connection.
package mqtt
