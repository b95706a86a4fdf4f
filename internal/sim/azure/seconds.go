package azure

import (
	"strconv"
	"strings"
	"time"
)

// Seconds turns a number of seconds in JSON into a duration.
func Seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// FlexibleSeconds is a number of seconds that the Azure CLI may have written as a string.
type FlexibleSeconds struct{ Value *float64 } // nil if it is not given

// UnmarshalJSON takes 30 and "30".
func (f *FlexibleSeconds) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	if text == "null" {
		return nil
	}
	n, err := strconv.ParseFloat(text, 64)
	f.Value = &n
	return err
}
