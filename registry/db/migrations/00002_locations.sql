-- +goose Up

-- What clients wrote beside a location: a JSON object of texts, or '' for none.
ALTER TABLE locations ADD COLUMN metadata TEXT NOT NULL DEFAULT '';

-- Whether a live object is a copy for an image that has its data already, and not
-- an upload that the image waits for.
ALTER TABLE objects ADD COLUMN is_copy BOOLEAN NOT NULL DEFAULT FALSE;

-- Few among many: the images whose data nobody has read yet. The index of digests
-- leaves those without one to it: SQLite would think that there are few.
CREATE INDEX images_unhashed ON images (id) WHERE status = 'active' AND digest IS NULL;
DROP INDEX images_digest;
CREATE INDEX images_digest ON images (digest) WHERE digest IS NOT NULL;

-- +goose Down
DROP INDEX images_digest;
CREATE INDEX images_digest ON images (digest);
DROP INDEX images_unhashed;
ALTER TABLE objects DROP COLUMN is_copy;
ALTER TABLE locations DROP COLUMN metadata;
