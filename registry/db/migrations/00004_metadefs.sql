-- +goose Up

CREATE TABLE namespaces (
    name         TEXT    NOT NULL PRIMARY KEY,
    display_name TEXT,
    description  TEXT,
    public       BOOLEAN NOT NULL,
    protected    BOOLEAN NOT NULL,
    owner        TEXT    NOT NULL,
    created_at   BIGINT  NOT NULL,
    updated_at   BIGINT  NOT NULL
);
CREATE INDEX namespaces_created ON namespaces (created_at, name);

-- What namespaces define: document is a JSON object, or '' for none.
CREATE TABLE definitions (
    namespace  TEXT   NOT NULL REFERENCES namespaces (name) ON DELETE CASCADE ON UPDATE CASCADE,
    kind       TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    document   TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, kind, name)
);
CREATE INDEX definitions_named ON definitions (kind, name);

-- +goose Down
DROP TABLE definitions;
DROP TABLE namespaces;
