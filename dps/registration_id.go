package dps

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/azname"
)

// MaxRegistrationID is the length limit of a registration id in characters (Microsoft: "Device
// Provisioning Service terminology", "Registration ID").
const MaxRegistrationID = 128

// CheckRegistrationID returns an error if DPS would refuse id. An id has at most 128 letters,
// digits and - . _ :, and its last character is a letter, a digit or a dash (Microsoft: "Device
// Provisioning Service terminology", "Registration ID").
func CheckRegistrationID(id string) error {
	switch {
	case id == "":
		return errors.New("the device id is empty")
	case len(id) > MaxRegistrationID:
		return fmt.Errorf("the device id has %d characters; DPS takes %d", len(id), MaxRegistrationID)
	}
	for _, r := range id {
		if !azname.IsAlphanumeric(r) && !strings.ContainsRune("-._:", r) {
			return fmt.Errorf("the device id %q contains %q; DPS takes letters, digits and any of - . _ :, nothing else", id, r)
		}
	}
	if last := rune(id[len(id)-1]); !azname.IsAlphanumeric(last) && last != '-' {
		return fmt.Errorf("the device id %q ends with %q; its last character must be a letter, a digit or a dash", id, last)
	}
	return nil
}
