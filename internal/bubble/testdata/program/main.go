// The program is no test, and uses virtual time.
package main

import (
	"fmt"
	"time"

	"github.com/hubhop-iot/hubhop/internal/bubble"
)

func main() {
	fmt.Println(bubble.Run(func() {
		time.Sleep(1000 * time.Hour)
		bubble.Settle()
		fmt.Println(time.Now().UTC())
	}))
	fmt.Println(bubble.Run(func() { go func() { select {} }() }))
	fmt.Println(bubble.Run(func() { panic(1) }) != nil)
}
