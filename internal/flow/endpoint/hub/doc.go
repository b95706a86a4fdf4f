// Package hub is the destination iothub of a data flow graph: the durable outbox of the device,
// from which its link sends the messages to whatever hub the device is assigned to.
//
// It knows no hub and no device. It is handed an [Intake] for telemetry and a [Twin] for reported
// properties, and says that a message is safe when they have it on the disk. So neither a crash nor
// the loss of a hub takes a message of which its source was told that it is safe.
//
// What a message becomes:
//
//   - the user properties become application properties under the same names, so the attributes of a
//     CloudEvent stay bare. Names that begin with "__" (Microsoft's page "Use MQTT 5 user properties
//     in Azure IoT Operations" reserves them) or with "$" (IoT Hub's own) are left out.
//   - the property "id" is the ID of the message. The outbox has a number of its own for each message.
//   - the content type and the encoding are system properties. A message without a content type
//     whose payload is JSON is said to be application/json in utf-8, because routes of IoT Hub look
//     into the body of such messages only (Microsoft's page "IoT Hub message routing query syntax").
//   - the creation time is that of the message.
//
// "property" as the place makes reported properties of the members of a JSON object.
package hub
