//go:build !unix

package hub

const canTry = false

func writeNow(uintptr, []byte) int { return 0 }
