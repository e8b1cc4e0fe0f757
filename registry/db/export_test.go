package db

import "context"

// Beat is what Run does every few seconds.
func (d *DB) Beat(ctx context.Context) error { return d.beat(ctx) }
