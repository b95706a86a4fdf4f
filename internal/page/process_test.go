package page_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/status"
)

// program is hubhop run as a process of its own.
type program struct {
	t    *testing.T
	args []string
	log  bytes.Buffer
	cmd  *exec.Cmd
}

// start starts the process; so it is called again after kill.
func (p *program) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.Env = []string{"HOME=" + p.t.TempDir()}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends the process at once, as kill -9 does.
func (p *program) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// TestRealDeviceIsShown looks at hubhop run --http while its hubs die, while there is no cloud at
// all, and while it is itself killed and started again. The page needs no reload.
func TestRealDeviceIsShown(t *testing.T) {
	cloud := startCloud(t, nil)
	dir := t.TempDir()
	if err := cloud.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "hubhop")
	if out, err := exec.Command("go", "build", "-o", bin, "../..").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	_ = free.Close()
	p := &program{t: t, args: []string{
		bin, "run", "--http", addr, "--id-scope", cloud.Info().IDScope, "--provisioning-host", cloud.Info().ProvisioningHost, "--ca-file", filepath.Join(dir, "ca.pem"),
		"--group-key-file", filepath.Join(dir, "group.key"), "--device-id", "pump-9", "--state-dir", filepath.Join(dir, "state"), "--telemetry-interval", "100ms",
	}}
	p.start()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Log(p.log.String())
		}
	})

	b := openPage(t, "about:blank", desktop)
	b.serverAway(true) // the page is opened before the device is there
	for !b.reaches("http://" + addr + "/") {
		if p.cmd.ProcessState != nil {
			t.Fatal("the device has ended")
		}
	}
	hubs := cloud.Info().Hubs
	connected := func(hub int) string {
		return fmt.Sprintf(`document.querySelector("#verdict-text").textContent === %s`, quoted("Connected to "+hubs[hub].Host))
	}
	b.until(connected(0))

	if err := cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}); err != nil {
		t.Fatal(err)
	}
	b.until(connected(1))
	b.until(`document.querySelectorAll("#moves tr").length === 1`)
	row := value[[]string](b, `[...document.querySelector("#moves tr").children].map((c) => c.textContent)`)
	if row[1] != hubs[0].Host || row[2] != hubs[1].Host || !strings.HasPrefix(row[3], "H") || row[4] == "lasts" {
		t.Errorf("%q", row)
	}

	// No cloud at all: the samples wait, and the page says why and when the next try is.
	for _, fault := range []error{cloud.FaultHub("hub-b", sim.Fault{Kind: sim.FaultKill}), cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown})} {
		if fault != nil {
			t.Fatal(fault)
		}
	}
	b.until(`document.querySelector("#verdict").dataset.mood === "bad"`)
	b.until(`Number(document.querySelector("#f-waiting").textContent) >= 20 && parseFloat(document.querySelector("#a-oldest b").textContent) >= 2`)
	b.until(`/ More: hubhop explain [HD][0-9]+$/.test(document.querySelector("#a-why span").textContent)`)
	b.until(`/^(in [0-9.]+ s|Now)$/.test(document.querySelector("#a-next b").textContent)`)
	b.picture("device-real-outage")
	for _, fault := range []error{cloud.HealHub("hub-a"), cloud.HealHub("hub-b"), cloud.HealDPS()} {
		if fault != nil {
			t.Fatal(fault)
		}
	}
	b.until(`document.querySelector("#verdict").dataset.mood === "good" && document.querySelector("#f-waiting").textContent.length === 1`)
	v := view(t, addr)
	if got := numberIn(t, b.text("#f-acknowledged")); got > int64(v.Telemetry.Acknowledged) || got+100 < int64(v.Telemetry.Acknowledged) {
		t.Errorf("the page says %d acknowledged, and then the status %d", got, v.Telemetry.Acknowledged)
	}
	if _, err := cloud.Method(t.Context(), "pump-9", "echo", json.RawMessage(`"hello"`)); err != nil {
		t.Error(err)
	}
	b.until(`document.querySelector("#commands").textContent.includes("echo")`)
	b.picture("device-real-back")

	p.kill()
	b.until(`document.querySelector("#server-text").textContent === "Server away"`)
	p.start()
	b.until(`document.querySelector("#server-text").textContent === "Live" && document.querySelector("#verdict").dataset.mood === "good"`)
	if ledger := cloud.Ledger("pump-9", false); ledger.Missing != 0 || ledger.Received == 0 {
		t.Errorf("%+v", ledger)
	}
}

// view asks for the status.
func view(t *testing.T, addr string) (v status.View) {
	t.Helper()
	r, err := http.Get("http://" + addr + "/status")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
