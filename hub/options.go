package hub

import (
	"errors"
	"fmt"
	"time"
)

// Options are what a user may choose of a link.
type Options struct {
	KeepAlive time.Duration // an idle link is tested after it; 1 s to [MaxKeepAlive]
	TokenLife time.Duration // of a SAS token; at least 10 s
}

// DefaultOptions returns the options of a user who has chosen none.
func DefaultOptions() Options { return Options{KeepAlive: 20 * time.Second, TokenLife: time.Hour} }

// Validate returns an error for each option that is out of its bounds. The text begins with the
// option's name as it is spelled on the command line.
func (o Options) Validate() error {
	var faults []error
	if o.KeepAlive < time.Second || o.KeepAlive > MaxKeepAlive {
		faults = append(faults, fmt.Errorf("keep-alive must lie between 1s and 1177s (IoT Hub's limit), it is %v", o.KeepAlive))
	}
	if o.TokenLife < 10*time.Second {
		faults = append(faults, fmt.Errorf("sas-ttl must be at least 10s, it is %v", o.TokenLife))
	}
	return errors.Join(faults...)
}
