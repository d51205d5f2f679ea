-- Enqueueing, and telling workers. Named queries; what they call stands in ``functions/``.

-- name: enqueue
-- Insert plain jobs, which can start at once, in the order given. Arrays may be empty: then the column has its default.
-- One name alone is the name of all. With $9 idle workers are told of them, by the same commit; is_told is whether they
-- are: not where there are none, or where another commit tells just now.
INSERT INTO {schema}.jobs (queue_id, payload, name, priority, content_type, headers, expires_at, extra)
SELECT queue.id, raw.payload, coalesce(raw.name, ($3::text[])[1], ''), coalesce(raw.priority, 0), raw.content_type, raw.headers,
    coalesce(raw.expires_at, now() + queue.message_retention_seconds * interval '1 second'), raw.extra
FROM {schema}.queues AS queue,
    unnest($2::bytea[], $3::text[], $4::smallint[], $5::text[], $6::jsonb[], $7::timestamptz[], $8::jsonb[])
        WITH ORDINALITY AS raw (payload, name, priority, content_type, headers, expires_at, extra, place)
WHERE queue.id = $1
ORDER BY raw.place
RETURNING id, true AS is_new, (SELECT CASE WHEN $9 THEN {schema}.wake($1, true) END) AS is_told

-- name: put
-- Enqueue jobs that ask for more: a delay, a group, a deduplication key.
SELECT id, is_new FROM {schema}.put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)

-- name: put_keyed
-- The same, but no lock is waited for longer than $14: somebody's transaction may hold a key, and stay open for long.
SELECT put.id, put.is_new
FROM (SELECT set_config('lock_timeout', $14, true) AS limit_of_waits OFFSET 0) AS first,
    LATERAL {schema}.put(CASE WHEN first.limit_of_waits IS NOT NULL THEN $1::integer END, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
        $12, $13) AS put

-- name: wake
-- Tell idle workers of new jobs, where there are any. Only a hint: its commit waits for no disk and no standby, and who
-- notifies at the same time does not wait for it.
SELECT set_config('synchronous_commit', 'off', true), {schema}.wake($1)

-- name: channel
-- On which channel workers of the queue are told of jobs.
SELECT {schema}.channel($1)
