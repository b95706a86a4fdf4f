package expr

import (
	"errors"
	"math/big"
	"math/rand/v2"
	"testing"
)

func TestIntegersOfTheOlderKindHave128Bits(t *testing.T) {
	const top = "170141183460469231731687303715884105727"
	for _, c := range []struct {
		source string
		inputs []string
		want   string
	}{
		{"$1", []string{"18446744073709551615"}, "18446744073709551615"},
		{"$1 + 1", []string{"9223372036854775807"}, "9223372036854775808"},
		{"$1 + 1", []string{"18446744073709551615"}, "18446744073709551616"},
		{"$1 - $2", []string{"18446744073709551616", "18446744073709551615"}, "1"},
		{"$1 * $1", []string{"4294967296"}, "18446744073709551616"},
		{"$1 / 1000000", []string{"1796074883104000000000"}, "1796074883104000"},
		{"$1 / $2", []string{"-9223372036854775808", "-1"}, "9223372036854775808"},
		{"$1 % 10", []string{"-18446744073709551616"}, "-6"},
		{"-$1", []string{"-9223372036854775808"}, "9223372036854775808"},
		{"-$1", []string{"9223372036854775808"}, "-9223372036854775808"},
		{"abs($1)", []string{"-18446744073709551616"}, "18446744073709551616"},
		{"abs($1)", []string{"-9223372036854775808"}, "9223372036854775808"},
		{"18446744073709551616 - 1", nil, "18446744073709551615"},
		{"$1 > $2", []string{"9223372036854775808", "9223372036854775807"}, "true"},
		{"$1 == $2", []string{"9223372036854775808", "9223372036854775807"}, "false"},
		{"$1 == $2", []string{"18446744073709551615", "18446744073709551615"}, "true"},
		{"$1 == 18446744073709551616.0", []string{"18446744073709551616"}, "true"},
		{"max($1, 1)", []string{"18446744073709551615"}, "18446744073709551615"},
		{"typeof($1)", []string{"18446744073709551615"}, `"int"`},
		{`"n" + $1`, []string{"18446744073709551615"}, `"n18446744073709551615"`},
		{"$1 / 2.0", []string{"18446744073709551616"}, "9.223372036854776e18"},
		{"$1", []string{top}, top},
		{"$1 - 1", []string{"-" + top}, "-170141183460469231731687303715884105728"},
	} {
		if got, err := computeIn(t, true, c.source, c.inputs...); err != nil || got != c.want {
			t.Errorf("%s of %v is %s, %v; want %s", c.source, c.inputs, got, err, c.want)
		}
	}
	for _, c := range []struct {
		source string
		inputs []string
		why    error
	}{
		{"$1 + 1", []string{top}, errWide},
		{"$1 * $1", []string{top}, errWide},
		{"$1 / 0", []string{top}, errDivision},
		{"$1 + true", []string{top}, errNumbers},
	} {
		if got, err := computeIn(t, true, c.source, c.inputs...); !errors.Is(err, c.why) {
			t.Errorf("%s of %v is %s, %v; want %v", c.source, c.inputs, got, err, c.why)
		}
	}
	if got, err := compute(t, "$1 + 1", "9223372036854775807"); !errors.Is(err, errOverflow) {
		t.Errorf("with 64 bits there is no overflow: %s, %v", got, err)
	}
	if _, err := Compile(top+"0", Options{Wide: true}); err == nil {
		t.Error("a literal of more than 128 bits is taken")
	}
}

// TestWideIntegersComputeAsBigOnesDo, around 64 and 128 bits.
func TestWideIntegersComputeAsBigOnesDo(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	draw := func() *big.Int {
		n := new(big.Int).Lsh(big.NewInt(1), uint([]int{1, 31, 32, 62, 63, 64, 65, 126}[rnd.IntN(8)]))
		n.Add(n, big.NewInt(int64(rnd.IntN(5)-2)))
		if rnd.IntN(2) == 0 {
			n.Neg(n)
		}
		return n
	}
	for op, compute := range map[string]func(z, x, y *big.Int) *big.Int{
		"+": (*big.Int).Add, "-": (*big.Int).Sub, "*": (*big.Int).Mul, "/": (*big.Int).Quo, "%": (*big.Int).Rem,
	} {
		for range 1000 {
			x, y := draw(), draw()
			if y.Sign() == 0 {
				continue
			}
			want := compute(new(big.Int), x, y)
			got, err := computeIn(t, true, "$1 "+op+" $2", x.String(), y.String())
			if want.Cmp(minWide) < 0 || want.Cmp(maxWide) > 0 {
				if !errors.Is(err, errWide) {
					t.Errorf("%v %s %v is %s, %v; it overflows", x, op, y, got, err)
				}
			} else if err != nil || got != want.String() {
				t.Errorf("%v %s %v is %s, %v; want %v", x, op, y, got, err, want)
			}
		}
	}
}
