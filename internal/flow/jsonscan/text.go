package jsonscan

import (
	"bytes"
	"math"
	"strconv"
	"unicode/utf8"
)

// Unescape appends what the inside of a valid JSON string says.
func Unescape(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			dst = append(dst, raw[i])
			i++
			continue
		}
		n := escapeLen(raw[i:])
		switch raw[i+1] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := hex4(raw[i+2:])
			if n == 12 {
				r = (r-0xD800)<<10 | (hex4(raw[i+8:]) - 0xDC00) + 0x10000
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, raw[i+1])
		}
		i += n
	}
	return dst
}

// AppendString appends a text as a JSON string, with the fewest escapes.
func AppendString[T string | []byte](dst []byte, text T) []byte {
	return append(AppendEscaped(append(dst, '"'), text), '"')
}

// AppendEscaped appends the inside of the JSON string of a text.
func AppendEscaped[T string | []byte](dst []byte, text T) []byte {
	const hexDigits = "0123456789abcdef"
	start := 0
	for i := range len(text) {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, text[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(dst, text[start:]...)
}

// AppendFloat appends a finite number as the shortest text that reads as the same float64. It
// always has a fraction or an exponent (20.0, 37.77777777777778, 1e-7), as in the outputs that
// Microsoft's pages on data flow graphs show.
func AppendFloat(dst []byte, f float64) []byte {
	if f == math.Trunc(f) && math.Abs(f) < 1e15 { // most of those without a fraction
		if f != 0 || !math.Signbit(f) {
			dst = strconv.AppendInt(dst, int64(f), 10)
			return append(dst, '.', '0')
		}
		return append(dst, "-0.0"...)
	}
	if a := math.Abs(f); a >= 1e-5 && a < 1e16 {
		start := len(dst)
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		if bytes.IndexByte(dst[start:], '.') >= 0 {
			return dst
		}
		return append(dst, '.', '0')
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64) // 1e+20, 1e-07: without + and the 0 in front
	out := start
	for i := start; i < len(dst); i++ {
		c := dst[i]
		if c == '+' || c == '0' && i == len(dst)-2 && (dst[i-1] == '-' || dst[i-1] == '+') {
			continue
		}
		dst[out] = c
		out++
	}
	return dst[:out]
}

// pow10 are the powers of ten that a float64 holds exactly.
var pow10 = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// ParseFloat returns the float64 that is nearest to a JSON number; ok is false if it is none or is
// too large for one.
func ParseFloat(text []byte) (f float64, ok bool) {
	// Up to 15 digits and a small exponent have one rounding at most: the quotient or product of
	// two exact numbers.
	var mantissa uint64
	i, count, point := 0, 0, -1
	if i < len(text) && text[i] == '-' {
		i++
	}
	for ; i < len(text); i++ {
		switch c := text[i]; {
		case c >= '0' && c <= '9':
			mantissa = mantissa*10 + uint64(c-'0')
			count++
		case c == '.' && point < 0:
			point = count
		default:
			count = 16
		}
		if count > 15 {
			f, err := strconv.ParseFloat(string(text), 64)
			return f, err == nil
		}
	}
	if count == 0 {
		return 0, false
	}
	f = float64(mantissa)
	if point >= 0 {
		f /= pow10[count-point]
	}
	if text[0] == '-' {
		f = -f
	}
	return f, true
}

// ParseInt returns the number that a JSON number without fraction and exponent has; ok is false if
// it does not fit.
func ParseInt(text []byte) (n int64, ok bool) {
	digits := text
	if len(text) > 0 && text[0] == '-' {
		digits = text[1:]
	}
	if len(digits) == 0 || len(digits) > 19 {
		return 0, false
	}
	var u uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		u = u*10 + uint64(c-'0')
	}
	switch {
	case len(digits) < len(text) && u <= 1<<63:
		return -int64(u), true
	case len(digits) == len(text) && u < 1<<63:
		return int64(u), true
	}
	return 0, false
}
