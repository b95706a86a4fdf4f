// Package window is what others see of a device that runs: it joins a device with the server of its
// status, finds the devices that run, and follows them.
package window
