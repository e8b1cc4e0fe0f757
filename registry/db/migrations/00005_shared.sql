-- +goose Up

-- When an event was committed; 0 for those of before.
ALTER TABLE events ADD COLUMN at BIGINT NOT NULL DEFAULT 0;

-- Nodes that serve images, as they announced themselves: said is a JSON object.
CREATE TABLE edges (
    name    TEXT   NOT NULL PRIMARY KEY,
    said    TEXT   NOT NULL,
    seen_at BIGINT NOT NULL
);

-- The processes that write here, so that others see which are gone: since is when this
-- one began to say every few seconds that it is there, seen_at when it last said so.
CREATE TABLE processes (
    name    TEXT   NOT NULL PRIMARY KEY,
    since   BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);
-- The process that writes a live object, '' for one of before.
ALTER TABLE objects ADD COLUMN process TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE objects DROP COLUMN process;
DROP TABLE processes;
DROP TABLE edges;
ALTER TABLE events DROP COLUMN at;
