package flow

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hubhop-iot/hubhop/telemetry/message"
)

// hubOf is an outbox that gives what comes to a channel.
type hubOf struct{ got chan message.Message }

func (h hubOf) Append(_ context.Context, ms ...message.Message) error {
	for _, m := range ms {
		h.got <- m
	}
	return nil
}

func (hubOf) Report(context.Context, map[string]json.RawMessage) error { return nil }

// TestTheExampleOfKafkaCarriesRecordsToTheHub, from a cluster in this process.
func TestTheExampleOfKafkaCarriesRecordsToTheHub(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	text, err := os.ReadFile("../../examples/flows/kafka/kafka.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text = []byte(strings.ReplaceAll(string(text), "127.0.0.1:9092", cluster.ListenAddrs()[0]))
	if err := os.WriteFile(filepath.Join(dir, "kafka.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	record := &kgo.Record{Topic: "orders", Value: []byte(`{"order":{"id":7,"price":2.5,"amount":4}}`)}
	if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
	hub := hubOf{make(chan message.Message, 1)}
	m, err := New(Options{Dir: dir, StateDir: t.TempDir(), Hub: hub, Log: func(_ bool, _, text string) { t.Log(text) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = m.Run(ctx) })
	defer running.Wait()
	defer stop()
	select {
	case got := <-hub.got:
		if string(got.Body) != `{"id":7,"total":10.0}` {
			t.Errorf("the hub got %s", got.Body)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("nothing arrives: %+v", m.Status())
	}
}
