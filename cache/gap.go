package cache

import "math/bits"

// maxOverread bounds what is read over in an image, in bytes for each byte that is
// not zero. Where data lies thinner than that, asking more often is cheaper.
const maxOverread = 2

// shortGap is the most, in chunks, that is read over for who does not want the whole
// extent: such a reader waits for what it asked for.
const shortGap = 4

// gapOf returns how many chunks of zeros in a row a fill reads over when it wants
// what is on both sides: the fewest with which an image that is read from its
// first to its last byte takes no more requests than it has extents, 16 MiB each.
// It is 0 for images whose data lies together, as that of most machines does.
// zero has the chunks that are zeros, of n in all.
func gapOf(zero []uint64, n int) int {
	var gaps [chunksPerExtent]int // in extents, by length
	runs, data := 0, 0            // data, in chunks
	for x, z := range zero {
		want := ^z
		if left := n - x*chunksPerExtent; left < chunksPerExtent {
			want &= 1<<left - 1
		}
		data += bits.OnesCount64(want)
		for bit := 0; want>>bit != 0; runs++ {
			gap := bits.TrailingZeros64(want >> bit)
			if bit > 0 {
				gaps[gap]++
			}
			bit += gap
			bit += bits.TrailingZeros64(^(want >> bit))
		}
	}
	gap, over := 0, 0
	for length, count := range gaps {
		if over += length * count; runs <= len(zero) || over > maxOverread*data {
			break
		}
		if count > 0 {
			gap, runs = length, runs-count
		}
	}
	return gap
}

// runLength returns how many chunks from bit on to ask for at once: those that are
// wanted, and up to gap zeros in a row between two of them. What is here already is
// not fetched again.
func runLength(want, zero uint64, bit, gap int) int {
	end := bit
	for {
		end += bits.TrailingZeros64(^(want >> end))
		between := bits.TrailingZeros64(^(zero >> end))
		if between == 0 || between > gap || want>>(end+between)&1 == 0 {
			return end - bit
		}
		end += between
	}
}
