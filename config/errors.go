package config

import (
	"fmt"
	"strings"
)

// Error is one mistake in a configuration file.
type Error struct {
	File string // the path that Load got
	Line int    // from 1; of the key, or of the mapping in which one is missing
	Key  string // dotted: exchange[0].domains[1]; "file" or "yaml" for the file as a whole
	Text string // what is wrong, and what is wanted instead; never a secret
}

func (e Error) Error() string { return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Key, e.Text) }

// Errors are all mistakes of a configuration file, in the order of their lines.
type Errors []Error

// Error has one mistake a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// similar returns the candidate that word probably means; empty if none is similar.
func similar(word string, candidates []string) string {
	const far = 3 // edits: more, and the two words have little in common
	if len(word) > maxName {
		return ""
	}
	best, nearest := "", far
	for _, c := range candidates {
		// Two edits make another word of a short one.
		if d := edits(strings.ToLower(word), c); d < nearest && d <= len(c)/2 {
			best, nearest = c, d
		}
	}
	for _, c := range candidates {
		if best == "" && len(word) > 2 && strings.HasPrefix(c, word+"_") { // password: password_file
			best = c
		}
	}
	return best
}

// edits counts the letters to insert, delete or replace that make b of a (the Levenshtein distance).
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
