package central

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/plain"
)

// CLI is the Azure CLI with its azure-iot extension, which asks IoT Central for its user.
type CLI struct {
	Program string // its name or path, such as az
	Environ []string

	AppID  string // of the application; the CLI asks https://AppID.DNSSuffix
	Host   string // of the application, such as myapp.azureiotcentral.com
	Suffix string // such as azureiotcentral.com

	// Token is the whole Authorization header; "" if the CLI is logged in. Other users of the
	// machine can see it in the list of processes.
	Token string
}

// grace is how long the Azure CLI may take to end when it was asked to.
const grace = 5 * time.Second

// Failover moves a device to another hub. IoT Central moves it back by itself after ttl, which is
// whole minutes up to MaxFailover; 0 leaves the time to IoT Central.
func (c *CLI) Failover(ctx context.Context, device string, ttl time.Duration) (Answer, error) {
	args := c.args("manual-failover", device)
	if ttl > 0 {
		args = append(args, "--ttl", strconv.Itoa(int(ttl/time.Minute)))
	}
	return c.run(ctx, args)
}

// Failback moves a device that was failed over back to its first hub.
func (c *CLI) Failback(ctx context.Context, device string) (Answer, error) {
	return c.run(ctx, c.args("manual-failback", device))
}

func (c *CLI) args(verb, device string) []string {
	return []string{"iot", "central", "device", verb, "-n", c.AppID, "-d", device, "--central-api-uri", c.Host, "--central-dns-suffix", c.Suffix}
}

// Find returns an error if the program is not there.
func (c *CLI) Find() error {
	if _, err := exec.LookPath(c.Program); err != nil {
		return fmt.Errorf("the Azure CLI (%s) is not installed; see https://aka.ms/azure-cli, then: az extension add --name azure-iot", c.Program)
	}
	return nil
}

func (c *CLI) run(ctx context.Context, args []string) (answer Answer, err error) {
	if err := c.Find(); err != nil {
		return answer, err
	}
	if c.Token != "" {
		args = append(args, "--token", c.Token)
	}
	out, words, err := c.start(ctx, args)
	if err != nil && ctx.Err() != nil {
		return answer, context.Cause(ctx)
	}
	if err != nil {
		if _, _, missing := c.start(ctx, []string{"extension", "show", "--name", "azure-iot"}); missing != nil {
			return answer, fmt.Errorf("the Azure CLI (%s) has no azure-iot extension; run: %[1]s extension add --name azure-iot", c.Program)
		}
		return answer, fmt.Errorf("the Azure CLI (%s) failed, %w: %s", c.Program, err, words)
	}
	// The CLI ends with 0 for any answer without the key "error", also for 404 and 500. So the
	// answer itself must say that the device is being moved.
	var said struct {
		Answer
		Result string `json:"result"`
	}
	if json.Unmarshal(out, &said) != nil || said.HubIdentifier == "" && said.Result != "success" {
		return answer, fmt.Errorf("the Azure CLI (%s) says nothing of a hub, so the device was probably not moved: %s", c.Program, plain.Line(string(out), maxShown))
	}
	return said.Answer, nil
}

// start runs the CLI to its end. It returns its standard output, and its last words on standard
// error.
func (c *CLI) start(ctx context.Context, args []string) (out []byte, words string, err error) {
	cmd := exec.CommandContext(ctx, c.Program, args...) //nolint:gosec // running the Azure CLI is what the user asks for
	cmd.Env, cmd.WaitDelay = c.Environ, grace
	var stdout, stderr tail
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // a child of it still holds the pipes
		err = nil
	}
	lines := strings.Split(strings.TrimSpace(stderr.kept.String()), "\n")
	return stdout.kept.Bytes(), plain.Line(strings.TrimSpace(lines[len(lines)-1]), maxShown), err
}

// tail keeps the newest bytes that are written to it, so that a program that says much costs
// little. The buffer is not embedded: io.Copy would find its ReadFrom, which knows no bound.
type tail struct{ kept bytes.Buffer }

func (t *tail) Write(b []byte) (int, error) {
	n := len(b)
	if t.kept.Len()+n > maxAnswer {
		t.kept.Next(t.kept.Len() + min(n, maxAnswer) - maxAnswer)
		b = b[max(0, n-maxAnswer):]
	}
	_, err := t.kept.Write(b)
	return n, err
}
