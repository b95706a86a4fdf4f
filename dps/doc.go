// Package dps asks the Azure Device Provisioning Service which IoT Hub a device belongs to.
//
// One call of [Client.Register] is one registration: connect, register, poll until DPS has decided,
// and go. It polls, because that is how DPS answers, but it never tries again: what to do after a
// failure is decided in one place, and that place is not here. Every failure is an [*Error] that
// says which step failed, what DPS said about it and whether a registration was spent.
//
// The group key need not be on the device: [DeriveKey] makes the device's own key from it, the same
// key that opens every hub DPS may assign.
package dps
