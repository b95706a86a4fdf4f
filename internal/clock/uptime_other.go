//go:build !linux

package clock

import "time"

func uptime() (running func() time.Duration, boot string) { return nil, "" }
