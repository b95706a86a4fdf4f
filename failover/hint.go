package failover

// Proof says how a device proves its identity, and to whom, so that a hint names only settings that
// the device has. The zero value is a key, for DPS and its hubs.
type Proof struct {
	Certificate bool // a certificate proves it, not a key
	OneHub      bool // a connection string names the hub, and there is no DPS
}

// Hint is what a person can do about a signal, empty if the device deals with it alone.
func (s Signal) Hint(p Proof) string {
	switch s {
	case DPSUnauthorized:
		if p.Certificate {
			return "check --id-scope, that an enrollment takes this certificate or its CA, and this machine's clock"
		}
		return "check --id-scope, the key and the device id it was made for, and this machine's clock"
	case DPSNotFound:
		return "create an enrollment for this device, or check --id-scope and --device-id"
	case DPSBlocked:
		return "approve or unblock the device in IoT Central (or in the allocation webhook)"
	case DPSDisabled:
		return "enable the enrollment at DPS"
	case DPSFailed:
		return "look at the enrollment's allocation policy and its linked hubs"
	case DPSBadRequest, DPSRefusedConnect:
		return "check --id-scope, --device-id and --provisioning-host"
	case DPSNonsense:
		return "check --provisioning-host, and what stands between this machine and DPS"
	case TLSFailed, DPSTLS:
		return "if this is a private hub or the simulator, give its CA with --ca-file; else something in between replaces the certificate"
	case ClockOff, DPSClock:
		return "set this machine's clock (timedatectl set-ntp true)"
	case DPSUnreachable, DPSSilent:
		return "check the network and --provisioning-host"
	case Connack5:
		what := "the key"
		if p.Certificate {
			what = "the certificate"
		}
		if p.OneHub {
			return "check " + what + ", that the hub has this device and has it enabled, and this machine's clock"
		}
		return "if DPS stands by this hub, check " + what + " and this machine's clock"
	case AssignedContested, LinkContested:
		return "another client uses this device's identity: stop it, or give it an identity of its own"
	default:
		return ""
	}
}

// NeedsPerson reports whether a signal will not go away by waiting: credentials, enrollment, approval or clock.
func (s Signal) NeedsPerson() bool {
	switch s {
	case DPSUnauthorized, DPSNotFound, DPSBlocked, DPSDisabled, DPSFailed, DPSBadRequest, DPSRefusedConnect, ClockOff, DPSClock:
		return true
	default:
		return false
	}
}
