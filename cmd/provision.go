package cmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/internal/device"
)

func newProvisionCommand(env *Env, builtin []byte) *cobra.Command {
	s := &settings{env: env, builtin: builtin}
	var asJSON bool
	c := &cobra.Command{
		Use:   "provision",
		Short: "Register a device once and print its hub",
		Long: `Provision asks DPS which hub the device belongs to, prints the answer and keeps it, so that hubhop run finds it. If DPS cannot
be reached, it tries again for a minute. If a person must act, it stops at once.` + "\n" + exitHelp,
		Example: `  hubhop provision --id-scope 0ne00ABCDEF --group-key-file group.key --device-id dev-1`,
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return runProvision(c.Context(), env, s, asJSON) },
	}
	s.addFlags(c.Flags())
	s.show("id-scope", "group-key", "group-key-file", "device-key", "device-key-file", "cert", "key", "device-id", "model-id", "model",
		"provisioning-host", "provisioning-transport", "ca-file", "state-dir", "config", "log-level", "log-format")
	c.Flags().BoolVar(&asJSON, "json", false, "print the answer as JSON")
	return c
}

func runProvision(ctx context.Context, env *Env, s *settings, asJSON bool) error {
	ctx, stop := env.Notify(ctx)
	defer stop()
	p, err := s.prepare()
	if err != nil {
		return err
	}
	if p.id.PinnedHub != "" {
		return usage(errors.New("a connection string names its hub; there is nothing to provision"))
	}
	a, err := device.Register(ctx, &p.shared, p.id, device.App{Model: p.sample.Model})
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(env.Stdout, struct {
			RegistrationID string `json:"registrationId"`
			DeviceID       string `json:"deviceId"`
			AssignedHub    string `json:"assignedHub"`
			Substatus      string `json:"substatus,omitempty"`
		}{p.id.DeviceID, a.DeviceID, a.Hub, a.Substatus})
	}
	_, err = fmt.Fprintf(env.Stdout, "%s\n", a.Hub)
	return err
}
