package expr

import "math/big"

// The older kind Dataflow computes with integers of 128 bits (Microsoft's page "Map data by using
// data flows"). One that does not fit 64 bits is a Wide.
var (
	maxWide = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 127), big.NewInt(1))
	minWide = new(big.Int).Not(maxWide)
)

// wideDigits are more than a Wide has, with its sign.
const wideDigits = 40

// parseWide reads an integer as JSON writes it; ok is false if it is none, or has more than 128
// bits.
func parseWide(text string, v *Value) (ok bool) {
	if len(text) > wideDigits {
		return false
	}
	n, ok := new(big.Int).SetString(text, 10)
	return ok && v.setBig(n) == nil
}

// setBig makes the value an Int or a Wide.
func (v *Value) setBig(n *big.Int) error {
	switch {
	case n.IsInt64():
		*v = Value{Kind: Int, Int: n.Int64()}
	case n.Cmp(minWide) < 0 || n.Cmp(maxWide) > 0:
		return errWide
	default:
		*v = Value{Kind: Wide, Big: n}
	}
	return nil
}

// asBig returns the value of an Int or a Wide. It must not be changed.
func (v *Value) asBig() (n *big.Int, ok bool) {
	switch v.Kind {
	case Int:
		return big.NewInt(v.Int), true
	case Wide:
		return v.Big, true
	default:
		return nil, false
	}
}

// areWide says whether two values are integers, and one of them is a Wide.
func areWide(a, b *Value) bool {
	return a.Kind == Wide && (b.Kind == Wide || b.Kind == Int) || b.Kind == Wide && a.Kind == Int
}

// wide computes with integers of 128 bits, if the expression has them.
func (e *Env) wide(a, b, out *Value, compute func(z, x, y *big.Int) *big.Int) error {
	x, ok := a.asBig()
	y, ok2 := b.asBig()
	if !e.Wide || !ok || !ok2 {
		return errOverflow
	}
	return out.setBig(compute(new(big.Int), x, y))
}

// bits is how many bits an integer has.
func (p *parser) bits() int {
	if p.o.Wide {
		return 128
	}
	return 64
}
