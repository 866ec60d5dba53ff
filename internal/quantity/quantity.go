// Package quantity writes how many of something there are.
package quantity

import "strconv"

// Of is n and the word for one, or for several: 1 device, 2 devices.
func Of(n int, one, several string) string {
	if n == 1 {
		several = one
	}
	return strconv.Itoa(n) + " " + several
}
