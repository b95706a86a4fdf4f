package sim

import (
	"errors"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// This file brings a cloud back from its state directory. Each room writes and reads its own
// records. Their keys are
//
//	device/{device}                         the registry's record of a device
//	enrollment/{group or single}/{id}       an entry of DPS's enrollment list
//	identity/{hub}/{device}[/{module}]      credentials and subscriptions
//	twin/{hub}/{part}/{device}[/{module}]   desired, reported, tags
//	mail/{hub}/{device}/{number}            a cloud-to-device message
//	ledger/segments                         numbers of the ledger's oldest and newest file
//
// All other state starts anew: faults, connections, registrations under way, the history of IoT
// Central's commands.

// restore brings back all that the state directory holds beside the ledger.
func (s *Sim) restore() error {
	kept := s.store
	if kept == nil {
		return s.registry.EnrolConfigured()
	}
	err := s.registry.Restore()
	for _, h := range s.hubs {
		if err == nil {
			err = h.Restore()
		}
	}
	if err == nil { // whose identities are left?
		err = kept.Take("identity/", func(name string, _ []byte) error {
			hub, _, _ := strings.Cut(name, "/")
			return &provisioning.FewHubsError{Hub: hub, Hubs: len(s.hubs)}
		})
	}
	if few, ok := errors.AsType[*provisioning.FewHubsError](err); ok {
		return few
	}
	if err != nil {
		return err
	}
	return s.registry.EnrolConfigured()
}

// keptAuthority returns the certificate authority that the store has under this name, or a new one.
func keptAuthority(s *store.Store, name, commonName string, now time.Time) (*azure.Authority, error) {
	if text := s.Secret(name); text != "" {
		a, err := azure.ParseAuthority([]byte(text), now)
		if err != nil {
			err = s.SecretError(name, err)
		}
		return a, err
	}
	a, err := azure.NewAuthority(commonName, now)
	if err != nil {
		return nil, err
	}
	key, err := a.KeyPEM()
	if err != nil {
		return nil, err
	}
	s.SetSecret(name, string(a.CertificatePEM())+string(key))
	return a, nil
}
