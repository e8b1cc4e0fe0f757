package origin

// For tests: Ingest with a bound on sums, and the sums of any chunk size.
var IngestMaxSums = ingest

func SumChunks(chunk int64, max int, data []byte, piece int) ([]byte, bool) {
	c := newChunkSums(chunk, max)
	for len(data) > 0 {
		n := min(piece, len(data))
		c.Write(data[:n])
		data = data[n:]
	}
	return c.end()
}
