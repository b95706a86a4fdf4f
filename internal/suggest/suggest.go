// Package suggest finds the word that a person probably meant.
package suggest

// Nearest returns the first of the known words that is nearest to word, and nearer than limit
// slips. It returns "" if none is. Letter case makes a difference, and the work grows with the
// product of the lengths, so callers bound them.
func Nearest(word string, known []string, limit int) (best string) {
	for _, k := range known {
		if d := Distance(word, k); d < limit {
			best, limit = k, d
		}
	}
	return best
}

// Distance returns how many slips turn a into b. A slip is a letter that is missing, too many or
// wrong, or two neighbours in each other's place. A letter is a byte.
func Distance(a, b string) int {
	// Row i holds the distances of the first i letters of a to the beginnings of b. Only three rows
	// are needed at a time.
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			wrong := 1
			if a[i] == b[j] {
				wrong = 0
			}
			row[j+1] = min(last[j]+wrong, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
