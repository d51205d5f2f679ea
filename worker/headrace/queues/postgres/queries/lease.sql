-- Leases: held jobs, kept alive. Named queries; what they call stands in ``functions/``.

-- name: start_lease
-- A lease, for heartbeats ($2 seconds), or for as long as the queue's visibility timeout.
INSERT INTO {schema}.leases (queue_id, expires_at, lease_seconds, heartbeats, holder)
SELECT id, now() + coalesce($2, visibility_timeout_seconds) * interval '1 second',
    coalesce($2, visibility_timeout_seconds), $2::double precision IS NOT NULL, $3
FROM {schema}.queues
WHERE id = $1
RETURNING id

-- name: heartbeat
-- Still here; what was done since the last time ($5 to $9); and what there is to know. A lease that ran out but was judged
-- by nobody is as good as new; one that was judged is gone (and there is no row). Watches the queue, too: a round of
-- housekeeping may take long.
WITH lease AS MATERIALIZED (
    SELECT {schema}.extend_lease($1, $2, $5, $6, $7, $8, $9) AS queue_id
)
SELECT queue.id, queue.visibility_timeout_seconds, queue.max_retries, queue.message_retention_seconds,
    queue.completed_retention_seconds, queue.dead_letter_enabled, queue.dead_letter_retention_days,
    queue.paused OR queue.paused_by_hand AS paused,
    ARRAY (
        SELECT wanted.job_id
        FROM {schema}.cancellations AS wanted
        WHERE wanted.queue_id = queue.id AND wanted.job_id = ANY ($3::bigint[])
    ) AS cancelled,
    ARRAY (
        SELECT claim.id
        FROM {schema}.claims AS claim
        WHERE claim.lease_id = $1 AND claim.id <> ALL ($4::bigint[]) AND claim.claimed_at < now() - interval '10 seconds'
    ) AS strays,
    (SELECT compatible_with FROM {schema}.migrations ORDER BY version DESC LIMIT 1) AS compatible_with,
    {schema}.keep_watch(queue.id)
FROM lease JOIN {schema}.queues AS queue ON queue.id = lease.queue_id

-- name: lost_leases
-- Of leases, those that were judged, or are gone.
SELECT asked.id
FROM unnest($1::bigint[]) AS asked (id)
WHERE NOT EXISTS (SELECT FROM {schema}.leases WHERE leases.id = asked.id AND leases.was_alone IS NULL)

-- name: extend_lease
-- Still here, and no more than that: for a worker whose event loop is stuck.
SELECT {schema}.extend_lease($1, $2) IS NOT NULL

-- name: report_progress
-- How far jobs are ($3, by claim); nothing of claims that are not held any more. In the order of claims, as those are
-- settled.
SELECT {schema}.report_progress($1, $2, $3)

-- name: drop_strays
-- Claims whose answer never reached us: their jobs were never started, and can be claimed again.
SELECT {schema}.drop_claims(ARRAY (SELECT id FROM {schema}.claims WHERE lease_id = $1 AND id = ANY ($2::bigint[])))

-- name: end_leases
-- Leases given back: what was held under them can be claimed at once.
SELECT {schema}.end_leases($1)
