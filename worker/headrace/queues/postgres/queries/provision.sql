-- The schema, the server, and queues that are made and removed. Named queries; what they call stands in ``functions/``.

-- name: schema_version
-- The newest migration applied, and the oldest code that can still work with it. And what transactions see by default.
SELECT version, compatible_with, current_setting('transaction_isolation') AS isolation
FROM {schema}.migrations ORDER BY version DESC LIMIT 1

-- name: server_settings
-- What of this session's settings is bad for a queue: limits in milliseconds (0: none), whether old rows are cleaned up,
-- and what transactions see.
SELECT (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'statement_timeout') AS statement_timeout_ms,
    (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'lock_timeout') AS lock_timeout_ms,
    coalesce((SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'), 0)
        AS idle_session_timeout_ms,
    (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'idle_in_transaction_session_timeout')
        AS idle_in_transaction_session_timeout_ms,
    current_setting('autovacuum') = 'on' AS has_autovacuum,
    current_setting('transaction_isolation') AS isolation,
    pg_is_in_recovery() AS is_standby

-- name: allowed_connections
-- How many connections ordinary users may have, this session's user among them: what is reserved for superusers is left to
-- them, and the limits of the user and of the database hold for whoever is no superuser.
SELECT least(
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true)::integer, 0),
    CASE WHEN role.rolconnlimit >= 0 AND NOT role.rolsuper THEN role.rolconnlimit END,
    CASE WHEN db.datconnlimit >= 0 AND NOT role.rolsuper THEN db.datconnlimit END
)
FROM pg_catalog.pg_roles AS role, pg_catalog.pg_database AS db
WHERE role.rolname = session_user AND db.datname = current_database()

-- name: lock_queue
-- The queue's row and owner, locked for the rest of the transaction; not against an application's transaction that has
-- enqueued (whose foreign keys lock the row's key).
SELECT id, owner_namespace, owner_name, owner_uid, owner_cluster,
    extract(epoch FROM clock_timestamp() - owner_seen_at)::double precision AS owner_unseen_seconds, visibility_timeout_seconds, max_retries, message_retention_seconds,
    completed_retention_seconds, dead_letter_enabled, dead_letter_retention_days, paused
FROM {schema}.queues
WHERE name = $1
FOR NO KEY UPDATE

-- name: register_queue
-- A new queue, with its place in the shared counts, and watched from now on.
WITH queue AS (
    INSERT INTO {schema}.queues (name, owner_namespace, owner_name, owner_uid, owner_cluster, visibility_timeout_seconds,
        max_retries, message_retention_seconds, completed_retention_seconds, dead_letter_enabled,
        dead_letter_retention_days, paused)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    RETURNING id
), watch AS (
    INSERT INTO {schema}.watches (queue_id, since, seen_at) SELECT id, now(), now() FROM queue
)
INSERT INTO {schema}.queue_stats (queue_id) SELECT id FROM queue

-- name: update_queue
-- New settings, or the same owner under a new uid or in another cluster; and it was seen.
UPDATE {schema}.queues
SET owner_uid = $2, owner_cluster = $3, owner_seen_at = now(), visibility_timeout_seconds = $4, max_retries = $5,
    message_retention_seconds = $6, completed_retention_seconds = $7, dead_letter_enabled = $8,
    dead_letter_retention_days = $9, paused = $10
WHERE id = $1

-- name: pause_queue
-- No job is claimed any more.
UPDATE {schema}.queues SET paused = true WHERE id = $1

-- name: remove_jobs
-- One batch of a queue's jobs that can be claimed.
WITH removed AS (
    DELETE FROM {schema}.jobs
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM {schema}.jobs WHERE queue_id = $1 LIMIT $2))
    RETURNING queue_id
)
SELECT count(*)::integer FROM removed

-- name: remove_parked_jobs
-- One batch of a queue's parked jobs.
WITH removed AS (
    DELETE FROM {schema}.parked_jobs
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM {schema}.parked_jobs WHERE queue_id = $1 LIMIT $2))
    RETURNING queue_id
)
SELECT count(*)::integer FROM removed

-- name: remove_dead_jobs
-- One batch of a queue's dead letters.
WITH removed AS (
    DELETE FROM {schema}.dead_jobs
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM {schema}.dead_jobs WHERE queue_id = $1 LIMIT $2))
    RETURNING queue_id
)
SELECT count(*)::integer FROM removed

-- name: remove_finished_jobs
-- One batch of a queue's history.
WITH removed AS (
    DELETE FROM {schema}.finished_jobs
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM {schema}.finished_jobs WHERE queue_id = $1 LIMIT $2))
    RETURNING queue_id
)
SELECT count(*)::integer FROM removed

-- name: remove_deduplication_keys
-- One batch of a queue's deduplication keys.
WITH removed AS (
    DELETE FROM {schema}.deduplication_keys
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM {schema}.deduplication_keys WHERE queue_id = $1 LIMIT $2))
    RETURNING queue_id
)
SELECT count(*)::integer FROM removed

-- name: remove_cancellations
-- One batch of a queue's cancellations.
WITH removed AS (
    DELETE FROM {schema}.cancellations
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM {schema}.cancellations WHERE queue_id = $1 LIMIT $2))
    RETURNING queue_id
)
SELECT count(*)::integer FROM removed

-- name: lock_jobs
-- Hold every enqueue from here on: afterwards each of them either is seen or sees no queue. Others queue up behind who
-- waits for such a lock, so wait a moment only.
LOCK TABLE {schema}.jobs, {schema}.parked_jobs IN SHARE ROW EXCLUSIVE MODE

-- name: wait_briefly
-- Give up on locks that are not to be had soon. Where a vacuum is in the way, wait for longer than the second after which
-- the server ends one of its own.
SELECT set_config('lock_timeout', CASE WHEN EXISTS (
    SELECT
    FROM pg_catalog.pg_locks AS held
        JOIN pg_catalog.pg_class AS kind ON kind.oid = held.relation
        JOIN pg_catalog.pg_namespace AS place ON place.oid = kind.relnamespace
    WHERE held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        AND held.mode = 'ShareUpdateExclusiveLock' AND place.nspname = {schema_literal}
        AND kind.relname IN ('jobs', 'parked_jobs')
) THEN '2s' ELSE '200ms' END, true)

-- name: remove_queue
-- The queue itself, with the little that came while its batches were removed, and all that is small; how many jobs were
-- among it.
WITH jobs AS (DELETE FROM {schema}.jobs WHERE queue_id = $1 RETURNING 1),
    parked AS (DELETE FROM {schema}.parked_jobs WHERE queue_id = $1 RETURNING 1),
    dead AS (DELETE FROM {schema}.dead_jobs WHERE queue_id = $1 RETURNING 1),
    finished AS (DELETE FROM {schema}.finished_jobs WHERE queue_id = $1),
    keys AS (DELETE FROM {schema}.deduplication_keys WHERE queue_id = $1),
    cancelled AS (DELETE FROM {schema}.cancellations WHERE queue_id = $1),
    heads AS (DELETE FROM {schema}.completed_heads WHERE queue_id = $1),
    groups AS (DELETE FROM {schema}.groups WHERE queue_id = $1),
    progress AS (DELETE FROM {schema}.progress WHERE lease_id IN (SELECT id FROM {schema}.leases WHERE queue_id = $1)),
    claims AS (DELETE FROM {schema}.claims WHERE queue_id = $1),
    leases AS (DELETE FROM {schema}.leases WHERE queue_id = $1),
    stats AS (DELETE FROM {schema}.queue_stats WHERE queue_id = $1),
    totals AS (DELETE FROM {schema}.queue_totals WHERE queue_id = $1),
    waiting AS (DELETE FROM {schema}.waiters WHERE queue_id = $1),
    watch AS (DELETE FROM {schema}.watches WHERE queue_id = $1),
    queue AS (DELETE FROM {schema}.queues WHERE id = $1)
SELECT ((SELECT count(*) FROM jobs) + (SELECT count(*) FROM parked) + (SELECT count(*) FROM dead))::integer
