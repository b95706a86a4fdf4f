package model

import "encoding/json"

// Ack is the acknowledgement of one writable property. A device reports it under the name of the
// property, as Microsoft's page "IoT Plug and Play conventions" says under "Writable properties".
type Ack struct {
	Value       json.RawMessage `json:"value"`        // the value the device has now
	Code        int             `json:"ac"`           // such as those below
	Version     int64           `json:"av"`           // $version of the desired part being answered; 0 if it answers none
	Description string          `json:"ad,omitempty"` // for a person
}

// Codes of an Ack. They mean what they mean in HTTP, and a device may report others.
const (
	AckCompleted = 200 // applied
	AckRefused   = 400 // known and writable, but the value does not fit
	AckUnknown   = 404 // the model has no such property
)
