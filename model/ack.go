package model

import "encoding/json"

// Ack is the acknowledgement of one writable property, as a device reports it under the property's name
// (IoT Plug and Play conventions, writable properties).
type Ack struct {
	Value       json.RawMessage `json:"value"`        // the value the device has now
	Code        int             `json:"ac"`           // one of the codes below
	Version     int64           `json:"av"`           // $version of the desired part being answered; 0 with AckDefault
	Description string          `json:"ad,omitempty"` // for a person
}

// Codes of an Ack, in the manner of HTTP.
const (
	AckCompleted = 200 // applied
	AckPending   = 202 // being applied, AckCompleted follows
	AckDefault   = 203 // the device's own value, nobody asked for another
	AckRefused   = 400 // known and writable, but the value does not fit
	AckUnknown   = 404 // the model has no such property
	AckFailed    = 500 // the value fits, the device could not apply it
)
