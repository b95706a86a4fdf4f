// Hold is the floor of an idle device process: a bare program that holds one TLS connection to a
// hub. It is given the hub's address and certificate authority, and on its standard input what it
// is to write.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "hold:", hold(os.Args[1], os.Args[2]))
	os.Exit(1)
}

// hold returns when the connection is lost.
func hold(addr, ca string) error {
	opening, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12}}
	conn, err := d.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	if _, err := conn.Write(opening); err != nil {
		return err
	}
	for b := make([]byte, 512); ; {
		if _, err := conn.Read(b); err != nil {
			return err
		}
	}
}
