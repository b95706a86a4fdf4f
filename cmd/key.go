package cmd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

func newKeyCommand(env *Env) *cobra.Command {
	return group("key", "Work with device keys", newKeyDeriveCommand(env))
}

func newKeyDeriveCommand(env *Env) *cobra.Command {
	var groupKey, groupKeyFile, deviceID string
	c := &cobra.Command{
		Use:   "derive",
		Short: "Derive a device's key from the group key",
		Long: `Derive prints the key of one device, made from the key of its enrollment group: base64(HMAC-SHA256(group key, device id)). Give it
to hubhop run --device-key-file, so that the group key need not be on the device. The group key is read from
--group-key-file (- is standard input) or HUBHOP_GROUP_KEY; it is not printed.` + "\n" + exitHelp,
		Example: `  hubhop key derive --device-id dev-1 --group-key-file group.key > dev-1.key`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return runKeyDerive(env, groupKey, groupKeyFile, deviceID)
		},
	}
	c.Flags().StringVar(&deviceID, "device-id", "", "registration id of the device")
	c.Flags().StringVar(&groupKey, "group-key", "", "group SAS key, base64; better: --group-key-file or HUBHOP_GROUP_KEY")
	c.Flags().StringVar(&groupKeyFile, "group-key-file", "", "file with the group SAS key, - for standard input")
	return c
}

func runKeyDerive(env *Env, groupKey, file, deviceID string) error {
	deviceID, groupKey = strings.TrimSpace(deviceID), strings.TrimSpace(groupKey)
	if deviceID == "" {
		return usage(errors.New("device-id is missing; the key is made for one device"))
	}
	if err := cli.CheckRegistrationID(deviceID); err != nil {
		return usage(fmt.Errorf("device-id: %w", err))
	}
	if groupKey != "" && file != "" {
		return usage(errors.New("group-key and group-key-file are given together; one is enough"))
	}
	warning := ""
	switch {
	case groupKey != "":
		warning = onCommandLine("group-key")
	case file != "":
		var err error
		if groupKey, err = readKeyArgument(env, file); err != nil {
			return usage(err)
		}
		if why := cli.Exposed(file, true); why != "" {
			warning = fmt.Sprintf("group-key-file: %s %s", secret.Quotable(file), why)
		}
	default:
		groupKey, _ = env.lookup(envName("group-key"))
		groupKey = strings.TrimSpace(groupKey)
	}
	if groupKey == "" {
		return usage(errors.New("group-key is missing; give --group-key-file or HUBHOP_GROUP_KEY"))
	}
	key, err := dps.DeriveKey(groupKey, deviceID)
	if err != nil {
		return usage(fmt.Errorf("group-key: %w", err))
	}
	if warning != "" {
		_, _ = fmt.Fprintln(env.Stderr, "hubhop: warning:", warning)
	}
	_, err = fmt.Fprintln(env.Stdout, key)
	return err
}

// readKeyArgument reads the group key from a file, or from standard input for "-".
func readKeyArgument(env *Env, file string) (string, error) {
	if file != "-" {
		return namedfile.ReadKey("group-key-file", file)
	}
	data, err := readArgument(env, "group-key-file", file, namedfile.MaxKeyBytes)
	if err != nil {
		return "", err
	}
	text, err := namedfile.PlainText(data)
	if err != nil {
		return "", fmt.Errorf("group-key-file: the standard input %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
