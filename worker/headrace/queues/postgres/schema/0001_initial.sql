-- compatible-with: 1
-- The tables that all queues of one schema share. Forward only: what is released here is never edited.
--
-- A job is one row from enqueue to completion, and then gone: hot tables hold live jobs only. Its state decides which
-- partial index it stands in, so a claim walks ready jobs alone, however many are delayed or running.

CREATE TABLE {schema}.queues (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    owner_namespace text NOT NULL,
    owner_name text NOT NULL,
    owner_uid text NOT NULL,
    visibility_timeout_seconds double precision NOT NULL,
    max_retries integer NOT NULL,
    message_retention_seconds double precision,
    dead_letter_enabled boolean NOT NULL,
    dead_letter_retention_days double precision NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE {schema}.queues IS 'One row a queue: whom it belongs to and what it does with its jobs.';

-- The number of its own jobs' rows that a worker writes while it keeps them alive is zero: it extends its lease.
-- No index on expires_at, so that extending stays within the page (HOT).
CREATE TABLE {schema}.leases (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue_id integer NOT NULL REFERENCES {schema}.queues (id) ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    holder text NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE {schema}.leases IS 'Who holds jobs, and until when. An id is never used again: it fences late completions.';

-- queue_id has no foreign key: checking one would cost more than the rest of an insert. Removing a queue removes its jobs.
CREATE TABLE {schema}.jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lease_id bigint,
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    run_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    queue_id integer NOT NULL,
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    state smallint NOT NULL DEFAULT 0 CHECK (state IN (0, 1, 2)),
    priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 10),
    name text NOT NULL DEFAULT '',
    payload bytea NOT NULL DEFAULT 'null',
    content_type text NOT NULL DEFAULT 'application/json',
    headers jsonb,
    group_key text,
    deduplication_key text,
    last_error text,
    CHECK ((state = 2) = (lease_id IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_analyze_threshold = 5000);
COMMENT ON TABLE {schema}.jobs IS 'The jobs that are not finished.';
COMMENT ON COLUMN {schema}.jobs.state IS '0 ready, 1 delayed until run_at, 2 running under lease_id';
COMMENT ON COLUMN {schema}.jobs.attempt IS 'Attempts charged: a claim charges one, a release or a rescue gives it back.';
CREATE INDEX jobs_ready ON {schema}.jobs (queue_id, priority DESC, id) WHERE state = 0;
CREATE INDEX jobs_delayed ON {schema}.jobs (queue_id, run_at) WHERE state = 1;
CREATE INDEX jobs_running ON {schema}.jobs (queue_id, lease_id) WHERE state = 2;
CREATE INDEX jobs_expiring ON {schema}.jobs (queue_id, expires_at)
    WHERE expires_at IS NOT NULL AND attempt = 0 AND state <> 2;

CREATE TABLE {schema}.dead_jobs (
    id bigint PRIMARY KEY,
    queue_id integer NOT NULL REFERENCES {schema}.queues (id) ON DELETE CASCADE,
    dead_at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL,
    error text,
    enqueued_at timestamptz NOT NULL,
    run_at timestamptz NOT NULL,
    expires_at timestamptz,
    attempt integer NOT NULL,
    priority smallint NOT NULL,
    name text NOT NULL,
    payload bytea NOT NULL,
    content_type text NOT NULL,
    headers jsonb,
    group_key text,
    deduplication_key text
);
COMMENT ON TABLE {schema}.dead_jobs IS 'The dead-letter queue: jobs given up, whole, with the reason and the last error.';
CREATE INDEX dead_jobs_by_age ON {schema}.dead_jobs (queue_id, dead_at);

-- Every worker publishes the depth; one of them counts, the others read what it found.
CREATE TABLE {schema}.queue_stats (
    queue_id integer PRIMARY KEY REFERENCES {schema}.queues (id) ON DELETE CASCADE,
    counted_at timestamptz NOT NULL DEFAULT '-infinity',
    ready bigint NOT NULL DEFAULT 0,
    delayed bigint NOT NULL DEFAULT 0,
    in_flight bigint NOT NULL DEFAULT 0,
    dead_lettered bigint NOT NULL DEFAULT 0,
    oldest_ready_age_seconds double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE {schema}.queue_stats IS 'The newest count of each queue, shared among its workers.';
