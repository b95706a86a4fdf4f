// Package strict reads YAML and JSON into structs, and tells everything that is wrong at once:
// unknown and repeated keys, wrong types, words and numbers that are not allowed. It keeps the
// place of every value, down to a character within a text, so that others can point at it too. What
// it reads is bounded: bytes, depth, and the values that aliases stand for.
//
// A struct says with the tags of its fields what a file may have: key (the key), must (it is
// needed, and why), one (the words that are allowed), old (an old word and the new one), min and
// max, def (the value of an absent key), empty (a text may be empty), unbounded (so may be the word
// unbounded, which is -1), own (an addition, refused by a strict check) and about (what it is). A
// field Where keeps the places; with the tag open its struct may have other keys too.
package strict
