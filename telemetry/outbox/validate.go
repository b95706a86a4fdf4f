package outbox

import (
	"errors"
	"fmt"
)

// MinMaxBytes is the smallest bound of an outbox that a user may choose. Open takes smaller ones.
const MinMaxBytes = 1 << 20

// Validate returns an error for each option that is out of the bounds that a user may choose. Each
// text begins with the option's name as it is spelled on the command line.
func (o Options) Validate() error {
	var faults []error
	if o.MaxBytes < MinMaxBytes {
		faults = append(faults, fmt.Errorf("outbox-max-bytes must be at least 1MiB, it is %d", o.MaxBytes))
	}
	if o.MaxAge < 0 {
		faults = append(faults, fmt.Errorf("outbox-max-age must not be negative, it is %v", o.MaxAge))
	}
	return errors.Join(faults...)
}
