// Package dps asks the Azure Device Provisioning Service (DPS) which IoT Hub a device belongs to.
//
// One call of [Client.Register] is one registration: connect, register, and poll until DPS has
// decided. It polls because that is how DPS answers, but it never repeats a registration that
// failed. What to do after a failure is decided elsewhere. Every failure is an [*Error] that says
// which step failed, what DPS said about it, and whether DPS has counted a registration.
//
// The key of an enrollment group need not be on the device. [DeriveKey] makes the device's own key
// from it, and that key opens every hub that DPS may assign.
package dps
