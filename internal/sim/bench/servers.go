package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// serve is one of the servers that the simulator is compared with, until standard input ends.
func serve(role string) error {
	if role == "" {
		return nil
	}
	config, err := certificate(role + ".pem")
	if err != nil {
		return err
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	l := tls.NewListener(raw, config)
	switch role {
	case "floor":
		go serveFloor(l)
	case "mochi":
		server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
		if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
			return err
		}
		if err := server.AddListener(listeners.NewNet("tls", l)); err != nil {
			return err
		}
		if err := server.Serve(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown server %q", role)
	}
	fmt.Println(raw.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// certificate makes a key of the same kind as the simulator's, and leaves its certificate in a file
// for the client.
func certificate(file string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
}

// serveFloor answers CONNECT, SUBSCRIBE, PUBLISH and PINGREQ, and looks at nothing else.
func serveFloor(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			r, w := bufio.NewReaderSize(conn, 4<<10), bufio.NewWriterSize(conn, 4<<10)
			_ = packets(r, func(first byte, body []byte) error {
				switch first {
				case 0x10:
					_, _ = w.Write([]byte{0x20, 2, 0, 0})
				case 0x82:
					_, _ = w.Write([]byte{0x90, 6, body[0], body[1], 1, 1, 1, 1})
				case 0x32:
					id := body[2+binary.BigEndian.Uint16(body):]
					_, _ = w.Write([]byte{0x40, 2, id[0], id[1]})
				case 0xc0:
					_, _ = w.Write([]byte{0xd0, 0})
				}
				if r.Buffered() > 0 {
					return nil
				}
				return w.Flush()
			})
		}()
	}
}
