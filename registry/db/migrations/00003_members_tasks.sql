-- +goose Up

-- The projects that images are shared with.
CREATE TABLE members (
    image_id   TEXT    NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    project    TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    can_share  BOOLEAN NOT NULL,
    created_at BIGINT  NOT NULL,
    updated_at BIGINT  NOT NULL,
    PRIMARY KEY (image_id, project)
);
CREATE INDEX members_project ON members (project, status, image_id);

-- Data that waits for its import, whole. Its object has a place here, and not in
-- objects, from when it is finished until an image has it or it is to be deleted.
CREATE TABLE staged (
    image_id  TEXT   NOT NULL PRIMARY KEY REFERENCES images (id),
    url       TEXT   NOT NULL UNIQUE,
    validator TEXT   NOT NULL,
    size      BIGINT NOT NULL,
    md5       TEXT   NOT NULL,
    sha512    TEXT   NOT NULL,
    digest    TEXT   NOT NULL REFERENCES manifests (digest)
);
CREATE INDEX staged_digest ON staged (digest);

-- Slow work. expires_at is NULL until a task has ended, lease_until while nobody
-- works on it. The image may be gone.
CREATE TABLE tasks (
    id          TEXT   NOT NULL PRIMARY KEY,
    type        TEXT   NOT NULL,
    status      TEXT   NOT NULL,
    owner       TEXT   NOT NULL,
    user_id     TEXT   NOT NULL,
    image_id    TEXT   NOT NULL,
    request_id  TEXT   NOT NULL,
    input       TEXT   NOT NULL,
    result      TEXT   NOT NULL,
    message     TEXT   NOT NULL,
    secret      TEXT   NOT NULL,
    attempts    BIGINT NOT NULL,
    holder      TEXT   NOT NULL,
    lease_until BIGINT,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    expires_at  BIGINT
);
-- An image has one task at a time.
CREATE UNIQUE INDEX tasks_of_image ON tasks (image_id) WHERE expires_at IS NULL AND image_id <> '';
CREATE INDEX tasks_to_do ON tasks (created_at, id) WHERE expires_at IS NULL;
CREATE INDEX tasks_image ON tasks (image_id, created_at, id);
CREATE INDEX tasks_created ON tasks (created_at, id);
CREATE INDEX tasks_ended ON tasks (expires_at) WHERE expires_at IS NOT NULL;

-- The orders again, with what every list asks for at their end: what is hidden is
-- passed over without a look at the image.
DROP INDEX images_created;
DROP INDEX images_updated;
DROP INDEX images_name;
DROP INDEX images_size;
CREATE INDEX images_created ON images (created_at, id, hidden);
CREATE INDEX images_updated ON images (updated_at, created_at, id, hidden);
CREATE INDEX images_name ON images (name, created_at, id, hidden);
CREATE INDEX images_size ON images (size, created_at, id, hidden);

-- What a project is shown, in the two orders that clients ask for: what is
-- everybody's, and what is its own.
CREATE INDEX images_visibility ON images (visibility, hidden, created_at, id);
CREATE INDEX images_visibility_name ON images (visibility, hidden, name, created_at, id);
CREATE INDEX images_owner ON images (owner, hidden, created_at, id);
CREATE INDEX images_owner_name ON images (owner, hidden, name, created_at, id);

-- For tags and properties that few images have. Long values are told apart by
-- their beginning: there are databases whose index has no room for more.
CREATE INDEX tags_tag ON tags (tag, image_id);
CREATE INDEX properties_value ON properties (name, substr(value, 1, 64), image_id);

-- +goose Down
DROP INDEX properties_value;
DROP INDEX tags_tag;
DROP INDEX images_owner_name;
DROP INDEX images_owner;
DROP INDEX images_visibility_name;
DROP INDEX images_visibility;
DROP INDEX images_size;
DROP INDEX images_name;
DROP INDEX images_updated;
DROP INDEX images_created;
CREATE INDEX images_created ON images (created_at, id);
CREATE INDEX images_updated ON images (updated_at, created_at, id);
CREATE INDEX images_name ON images (name, created_at, id);
CREATE INDEX images_size ON images (size, created_at, id);
DROP TABLE tasks;
DROP TABLE staged;
DROP TABLE members;
