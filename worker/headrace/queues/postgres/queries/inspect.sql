-- What people ask. Named queries; what they call stands in ``functions/``.

-- name: inspect_queues
-- All queues: settings and owners.
SELECT queue.id, queue.name, queue.visibility_timeout_seconds, queue.max_retries, queue.message_retention_seconds,
    queue.completed_retention_seconds, queue.dead_letter_enabled, queue.dead_letter_retention_days, queue.paused,
    queue.paused_by_hand, queue.owner_namespace, queue.owner_name, queue.owner_uid
FROM {schema}.queues AS queue
ORDER BY queue.name

-- name: inspect_queue
-- One queue: settings and owner.
SELECT queue.id, queue.name, queue.visibility_timeout_seconds, queue.max_retries, queue.message_retention_seconds,
    queue.completed_retention_seconds, queue.dead_letter_enabled, queue.dead_letter_retention_days, queue.paused,
    queue.paused_by_hand, queue.owner_namespace, queue.owner_name, queue.owner_uid
FROM {schema}.queues AS queue
WHERE queue.name = $1

-- name: inspect_pause
-- Pause a queue by hand, or end that; its id.
UPDATE {schema}.queues SET paused_by_hand = $2 WHERE name = $1 RETURNING id

-- name: inspect_ids
-- Whole jobs, by id. A job that moves meanwhile is seen where it was or where it is, and once.
SELECT id, queue, name, status, priority, attempt, message_group, deduplication_key, payload_bytes, content_type, headers,
    enqueued_at, run_at, expires_at, worker, failures, reason, ended_at, progress, extra
FROM {schema}.background_jobs
WHERE queue = $1 AND priority = ANY (ARRAY [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]::smallint[]) AND id = ANY ($2::bigint[])
    AND ($3::text IS NULL OR status = $3) AND ($4::text IS NULL OR name = $4) AND ($5::text IS NULL OR reason = $5)
    AND coalesce(ended_at, enqueued_at) <= now() - coalesce($6::double precision, 0) * interval '1 second'

-- name: inspect_ready
-- The first jobs that could be claimed now. Heads of groups that nobody has looked at are found by leaps from group to
-- group.
WITH RECURSIVE held AS MATERIALIZED (
    SELECT unnest(claim.job_ids) AS id
    FROM {schema}.claims AS claim JOIN {schema}.leases AS lease ON lease.id = claim.lease_id
    WHERE claim.queue_id = $1
), heads (group_key, id) AS (
    (SELECT group_key, id FROM {schema}.parked_jobs WHERE queue_id = $1 AND state IN ('arrived', 'behind') ORDER BY group_key, id LIMIT 1)
    UNION ALL
    SELECT next.group_key, next.id
    FROM heads, LATERAL (
        SELECT group_key, id
        FROM {schema}.parked_jobs
        WHERE queue_id = $1 AND state IN ('arrived', 'behind') AND group_key > heads.group_key
        ORDER BY group_key, id
        LIMIT 1
    ) AS next
)
SELECT id, priority FROM (
    SELECT found.id, found.priority
    FROM generate_series(10, 0, -1) AS level (priority), LATERAL (
        SELECT job.id, job.priority
        FROM {schema}.jobs AS job
        WHERE job.queue_id = $1 AND job.priority = level.priority::smallint AND job.id NOT IN (SELECT held.id FROM held)
            AND ($2::text IS NULL OR job.name = $2)
            AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
        ORDER BY job.id
        LIMIT $4
    ) AS found
    UNION ALL
    (SELECT job.id, job.priority
    FROM {schema}.parked_jobs AS job
    WHERE job.queue_id = $1 AND job.state = 'delayed' AND job.run_at <= now() AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    ORDER BY job.run_at
    LIMIT $4)
    UNION ALL
    (SELECT job.id, job.priority
    FROM heads JOIN {schema}.parked_jobs AS job ON job.queue_id = $1 AND job.id = heads.id
    WHERE job.state = 'arrived' AND (job.run_at IS NULL OR job.run_at <= now()) AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
        AND (SELECT head.head_id FROM {schema}.group_heads AS head
            WHERE head.queue_id = $1 AND head.group_key = job.group_key LIMIT 1) IS NULL
    LIMIT $4)
) AS candidate
ORDER BY priority DESC, id
LIMIT $4

-- name: inspect_running
-- The jobs that somebody holds, whether or not its lease still runs.
SELECT job.id, job.priority
FROM {schema}.claims AS claim
    JOIN {schema}.leases AS lease ON lease.id = claim.lease_id
    CROSS JOIN unnest(claim.job_ids) AS number
    JOIN {schema}.jobs AS job ON job.queue_id = $1 AND job.priority = claim.priority AND job.id = number
WHERE claim.queue_id = $1 AND ($2::text IS NULL OR job.name = $2)
    AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
ORDER BY job.priority DESC, job.id
LIMIT $4

-- name: inspect_suspect
-- The jobs to be claimed alone.
SELECT job.id, job.priority
FROM {schema}.parked_jobs AS job
WHERE job.queue_id = $1 AND job.state = 'suspect' AND (job.run_at IS NULL OR job.run_at <= now())
    AND ($2::text IS NULL OR job.name = $2)
    AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
ORDER BY job.priority DESC, job.id
LIMIT $4

-- name: inspect_delayed
-- The jobs whose time comes next; heads of groups among them.
WITH RECURSIVE heads (group_key, id) AS (
    (SELECT group_key, id FROM {schema}.parked_jobs WHERE queue_id = $1 AND state IN ('arrived', 'behind') ORDER BY group_key, id LIMIT 1)
    UNION ALL
    SELECT next.group_key, next.id
    FROM heads, LATERAL (
        SELECT group_key, id
        FROM {schema}.parked_jobs
        WHERE queue_id = $1 AND state IN ('arrived', 'behind') AND group_key > heads.group_key
        ORDER BY group_key, id
        LIMIT 1
    ) AS next
)
SELECT id, priority FROM (
    (SELECT job.id, job.priority, job.run_at
    FROM {schema}.parked_jobs AS job
    WHERE job.queue_id = $1 AND job.state = 'delayed' AND job.run_at > now() AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    ORDER BY job.run_at
    LIMIT $4)
    UNION ALL
    SELECT job.id, job.priority, job.run_at
    FROM {schema}.parked_jobs AS job
    WHERE job.queue_id = $1 AND job.state = 'suspect' AND job.run_at > now() AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    UNION ALL
    (SELECT job.id, job.priority, job.run_at
    FROM heads JOIN {schema}.parked_jobs AS job ON job.queue_id = $1 AND job.id = heads.id
    WHERE job.state = 'arrived' AND job.run_at > now() AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
        AND (SELECT head.head_id FROM {schema}.group_heads AS head
            WHERE head.queue_id = $1 AND head.group_key = job.group_key LIMIT 1) IS NULL
    LIMIT $4)
) AS candidate
ORDER BY run_at, id
LIMIT $4

-- name: inspect_blocked
-- The jobs behind the heads of their groups, group by group.
SELECT job.id, job.priority
FROM {schema}.parked_jobs AS job
WHERE job.queue_id = $1 AND job.state IN ('arrived', 'behind') AND ($2::text IS NULL OR job.name = $2)
    AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    AND (job.state = 'behind'
        OR (SELECT head.head_id FROM {schema}.group_heads AS head
            WHERE head.queue_id = $1 AND head.group_key = job.group_key LIMIT 1) IS NOT NULL
        OR EXISTS (SELECT FROM {schema}.parked_jobs AS head
            WHERE head.queue_id = $1 AND head.group_key = job.group_key AND head.state IN ('arrived', 'behind') AND head.id < job.id))
ORDER BY job.group_key, job.id
LIMIT $4

-- name: inspect_finished
-- The history, newest first: completed, cancelled, or both.
SELECT job.id, job.priority
FROM {schema}.finished_jobs AS job
WHERE job.queue_id = $1 AND ($2::text IS NULL OR job.name = $2)
    AND job.finished_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    AND ($5::text IS NULL OR job.outcome = $5)
ORDER BY job.finished_at DESC, job.id DESC
LIMIT $4

-- name: inspect_dead
-- The dead-letter queue, newest first.
SELECT dead.id, dead.priority
FROM {schema}.dead_jobs AS dead
WHERE dead.queue_id = $1 AND ($2::text IS NULL OR dead.name = $2)
    AND dead.dead_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    AND ($5::text IS NULL OR dead.reason = $5)
ORDER BY dead.dead_at DESC, dead.id DESC
LIMIT $4

-- name: inspect_clock
-- The time there, so long ago.
SELECT now() - coalesce($1::double precision, 0) * interval '1 second'

-- name: inspect_dead_from
-- One batch of the dead-letter queue, oldest first, after a place in it and until a time: what dies again meanwhile is
-- not met a second time.
SELECT dead.dead_at, dead.id
FROM {schema}.dead_jobs AS dead
WHERE dead.queue_id = $1 AND ($2::text IS NULL OR dead.name = $2) AND ($3::text IS NULL OR dead.reason = $3)
    AND dead.dead_at <= $4 AND dead.dead_at >= $5 AND (dead.dead_at, dead.id) > ($5, $6::bigint)
ORDER BY dead.dead_at, dead.id
LIMIT $7

-- name: inspect_make_due
-- Whether a job that waits for its time was found, and waits no longer.
SELECT {schema}.make_due($1, $2)

-- name: inspect_cancel
-- What became of it: cancelled, requested, or null where there is no such job.
SELECT {schema}.cancel($1, $2)

-- name: inspect_redrive
-- The dead jobs that were put back.
SELECT {schema}.redrive($1, $2)

-- name: inspect_purge
-- Dead jobs, gone for good.
DELETE FROM {schema}.dead_jobs
WHERE ctid = ANY (ARRAY (
    SELECT dead.place
    FROM unnest($2::bigint[]) AS wanted (id),
        LATERAL (
            SELECT job.ctid AS place
            FROM {schema}.dead_jobs AS job
            WHERE job.queue_id = $1 AND job.id = wanted.id
            OFFSET 0
            FOR UPDATE SKIP LOCKED
        ) AS dead
))
RETURNING id

-- name: inspect_judged_until
-- By when leases must have ended to be judged now, where there is something held for $3 seconds; null: ask again after a
-- lease.
SELECT {schema}.judged_until($1, $2, $3)

-- name: inspect_has_ended_leases
-- Whether a lease ran out under which something is held for so long.
SELECT EXISTS (
    SELECT
    FROM {schema}.leases AS lease JOIN {schema}.claims AS claim ON claim.lease_id = lease.id
    WHERE lease.queue_id = $1
        AND (lease.was_alone IS NOT NULL OR NOT {schema}.runs(lease.expires_at, lease.lease_seconds))
        AND claim.claimed_at <= now() - $2 * interval '1 second'
)

-- name: inspect_recover_stuck
-- The jobs that were put back.
SELECT {schema}.recover_stuck($1, $2, $3, $4)
