package sample

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/hubhop-iot/hubhop/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func failover(t testing.TB) *model.Model {
	t.Helper()
	data, err := os.ReadFile("../../failover.json")
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
