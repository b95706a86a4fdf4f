package endtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

var given sync.Map // ports that this process has been given

// FreePort returns a port of 127.0.0.1 that nobody listens at, for a broker that listens there
// later, perhaps more than once. A port that the system chooses for the moment would not do: the
// system may give it to the next that asks, and uses it for connections of others meanwhile.
func FreePort() (int, error) {
	for range 1000 {
		port := 20000 + rand.IntN(12000) // below what Linux takes for connections
		if _, taken := given.LoadOrStore(port, true); taken {
			continue
		}
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, errors.New("no port of 127.0.0.1 between 20000 and 32000 is free")
}
