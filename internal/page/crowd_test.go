//go:build !race

package page_test

// crowd is how many real devices a page shows in a test.
const crowd = 1000
