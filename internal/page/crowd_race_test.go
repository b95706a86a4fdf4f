//go:build race

package page_test

// crowd is smaller under the race detector, because TLS handshakes take ten times as long with it.
// The page itself runs in a browser, which the detector does not see.
const crowd = 200
