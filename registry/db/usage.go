package db

import (
	"context"

	"nearsight/registry"
)

// Usage implements registry.Usages.
func (d *DB) Usage(ctx context.Context, owner string) (u registry.Usage, err error) {
	err = d.read(ctx, "sum up what a project takes", func(tx txn) error {
		return tx.QueryRowContext(ctx, `SELECT
			CAST(COALESCE(SUM(size * (SELECT COUNT(*) FROM locations WHERE image_id = images.id)), 0) AS BIGINT),
			CAST(COALESCE(SUM((SELECT size FROM staged WHERE image_id = images.id)), 0) AS BIGINT),
			COUNT(*),
			COUNT(CASE WHEN status IN ('saving', 'uploading', 'importing') THEN 1 END)
			FROM images WHERE owner = ?`, owner).Scan(&u.Bytes, &u.Staged, &u.Images, &u.Uploading)
	})
	return u, err
}
