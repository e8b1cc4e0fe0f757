-- Times are microseconds since 1970 in UTC. Booleans, big integers and texts
-- mean the same in SQLite and PostgreSQL.

-- +goose Up

-- The number of the latest change, taken in the transaction of the change: a
-- sequence would commit out of order, and a reader would skip a change.
CREATE TABLE counter (
    revision BIGINT NOT NULL
);
INSERT INTO counter (revision) VALUES (0);

-- What the data of images is, by its digest; images with equal data share it.
CREATE TABLE manifests (
    digest  TEXT NOT NULL PRIMARY KEY,
    encoded BLOB NOT NULL
);

CREATE TABLE images (
    id               TEXT    NOT NULL PRIMARY KEY,
    name             TEXT,
    owner            TEXT,
    status           TEXT    NOT NULL,
    visibility       TEXT    NOT NULL,
    protected        BOOLEAN NOT NULL,
    hidden           BOOLEAN NOT NULL,
    disk_format      TEXT,
    container_format TEXT,
    min_ram          BIGINT  NOT NULL,
    min_disk         BIGINT  NOT NULL,
    size             BIGINT,
    virtual_size     BIGINT,
    checksum         TEXT,
    hash_algo        TEXT,
    hash_value       TEXT,
    digest           TEXT    REFERENCES manifests (digest),
    created_at       BIGINT  NOT NULL,
    updated_at       BIGINT  NOT NULL,
    activated_at     BIGINT,
    revision         BIGINT  NOT NULL
);
-- For the orders and the equalities that find few among many.
CREATE INDEX images_created ON images (created_at, id);
CREATE INDEX images_updated ON images (updated_at, created_at, id);
CREATE INDEX images_name ON images (name, created_at, id);
CREATE INDEX images_size ON images (size, created_at, id);
CREATE INDEX images_digest ON images (digest);
CREATE INDEX images_checksum ON images (checksum);
CREATE INDEX images_hash ON images (hash_value);

-- Ids of deleted images, which are never given again (OSSN-0075).
CREATE TABLE tombstones (
    id         TEXT   NOT NULL PRIMARY KEY,
    deleted_at BIGINT NOT NULL
);

CREATE TABLE properties (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (image_id, name)
);

CREATE TABLE tags (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    tag      TEXT NOT NULL,
    PRIMARY KEY (image_id, tag)
);

-- Where finished data is, the best place at position 0.
CREATE TABLE locations (
    image_id  TEXT    NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    position  INTEGER NOT NULL,
    url       TEXT    NOT NULL,
    validator TEXT    NOT NULL,
    PRIMARY KEY (image_id, position)
);
CREATE INDEX locations_url ON locations (url);

-- Objects that no image has: live while an upload writes there, dead when they
-- are to be deleted. image_id is the image they were for, which may be gone;
-- since is when this state begins: for data of a deleted image, which clients may
-- still be reading, that is later than the delete.
CREATE TABLE objects (
    url       TEXT   NOT NULL PRIMARY KEY,
    validator TEXT   NOT NULL,
    image_id  TEXT   NOT NULL,
    state     TEXT   NOT NULL CHECK (state IN ('live', 'dead')),
    since     BIGINT NOT NULL
);
CREATE INDEX objects_state ON objects (state, since, url);

CREATE TABLE events (
    revision BIGINT NOT NULL PRIMARY KEY,
    image_id TEXT   NOT NULL,
    kind     TEXT   NOT NULL,
    digest   TEXT   NOT NULL
);

-- +goose Down
DROP TABLE events;
DROP TABLE objects;
DROP TABLE locations;
DROP TABLE tags;
DROP TABLE properties;
DROP TABLE tombstones;
DROP TABLE images;
DROP TABLE manifests;
DROP TABLE counter;
