//go:build !linux

package device

import "time"

func uptime() (running func() time.Duration, boot string) { return nil, "" }
