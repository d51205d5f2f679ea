-- Every query of the Postgres backend, by name. What is hot, or decides under a lock, is a function of the schema
-- (``schema/``), so that its plan is pinned and any language can call it.

-- name: find_queue
-- The queue's row: its id and its settings, as of now.
SELECT id, visibility_timeout_seconds, max_retries, message_retention_seconds, completed_retention_seconds,
    dead_letter_enabled, dead_letter_retention_days, paused OR paused_by_hand AS paused
FROM {schema}.queues
WHERE name = $1

-- name: schema_version
-- The newest migration applied, and the oldest code that can still work with it. And what transactions see by default.
SELECT version, compatible_with, current_setting('transaction_isolation') AS isolation
FROM {schema}.migrations ORDER BY version DESC LIMIT 1

-- name: enqueue
-- Insert plain jobs, which can start at once, in the order given. Arrays may be empty: then the column has its default.
-- One name alone is the name of all.
INSERT INTO {schema}.jobs (queue_id, payload, name, priority, content_type, headers, expires_at)
SELECT queue.id, raw.payload, coalesce(raw.name, ($3::text[])[1], ''), coalesce(raw.priority, 0), raw.content_type, raw.headers,
    coalesce(raw.expires_at, now() + queue.message_retention_seconds * interval '1 second')
FROM {schema}.queues AS queue,
    unnest($2::bytea[], $3::text[], $4::smallint[], $5::text[], $6::jsonb[], $7::timestamptz[])
        WITH ORDINALITY AS raw (payload, name, priority, content_type, headers, expires_at, place)
WHERE queue.id = $1
ORDER BY raw.place
RETURNING id

-- name: put
-- Enqueue jobs that ask for more: a delay, a group, a deduplication key.
SELECT {schema}.put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- name: wake
-- Tell idle workers of new jobs, where there are any.
SELECT pg_notify('headrace', {schema_literal} || '/' || $1::integer)
WHERE EXISTS (SELECT FROM {schema}.waiters WHERE queue_id = $1)

-- name: wait
-- From now on this session wants to be told. Sessions that are gone want nothing any more.
WITH stale AS (
    DELETE FROM {schema}.waiters
    WHERE queue_id = $1 AND NOT EXISTS (SELECT FROM pg_stat_activity AS session WHERE session.pid = waiters.pid)
)
INSERT INTO {schema}.waiters (queue_id, pid) VALUES ($1, pg_backend_pid()) ON CONFLICT DO NOTHING

-- name: wait_no_more
-- This session is busy.
DELETE FROM {schema}.waiters WHERE queue_id = $1 AND pid = pg_backend_pid()

-- name: claim
-- See the function.
SELECT * FROM {schema}.claim($1, $2, $3, $4)

-- name: claim_suspect
-- See the function.
SELECT * FROM {schema}.claim_suspect($1, $2)

-- name: next_due
-- In how many seconds the next delayed job is due; null without one. Those that are due already have been looked at.
SELECT extract(epoch FROM {schema}.next_due($1) - now())::double precision

-- name: complete
-- See the function.
SELECT {schema}.complete($1, $2, $3)

-- name: forget
-- See the function.
SELECT {schema}.forget($1, $2, $3, $4, $5)

-- name: release
-- See the function.
SELECT {schema}.release($1, $2, $3, $4)

-- name: retry
-- See the function.
SELECT {schema}.retry($1, $2, $3, $4, $5, $6)

-- name: dead_letter
-- See the function.
SELECT {schema}.dead_letter($1, $2, $3, $4, $5, $6)

-- name: discard
-- See the function.
SELECT {schema}.discard($1, $2, $3)

-- name: settled_before
-- Of jobs that were held under a lease, those that are in their claims no more though it exists: it is their holder who
-- has settled them, in a call whose answer was lost.
SELECT DISTINCT asked.id
FROM unnest($2::bigint[], $3::bigint[]) AS asked (claim_id, id)
WHERE EXISTS (SELECT FROM {schema}.leases WHERE id = $1)
    AND NOT EXISTS (
        SELECT FROM {schema}.claims AS claim
        WHERE claim.id = asked.claim_id AND claim.lease_id = $1 AND asked.id = ANY (claim.job_ids)
    )

-- name: start_lease
-- A lease, for heartbeats or for as long as the queue's visibility timeout.
INSERT INTO {schema}.leases (queue_id, expires_at, holder)
SELECT id, now() + coalesce($2, visibility_timeout_seconds) * interval '1 second', $3
FROM {schema}.queues
WHERE id = $1
RETURNING id

-- name: heartbeat
-- Still here; and what there is to know. A lease that ran out but was judged by nobody is as good as new; one that was
-- judged is gone (and there is no row). Watches the queue, too: a round of housekeeping may take long.
WITH lease AS (
    UPDATE {schema}.leases SET expires_at = now() + $2 * interval '1 second' WHERE id = $1 RETURNING queue_id
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
    {schema}.keep_watch(queue.id)
FROM lease JOIN {schema}.queues AS queue ON queue.id = lease.queue_id

-- name: report_progress
-- How far jobs are, by claim; nothing of claims that are not held any more.
UPDATE {schema}.claims AS claim
SET progress = coalesce(claim.progress, jsonb_build_object()) || told.progress::jsonb
FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS told (lease_id, claim_id, progress)
WHERE claim.id = told.claim_id AND claim.lease_id = told.lease_id

-- name: drop_strays
-- Claims whose answer never reached us: their jobs were never started, and can be claimed again.
SELECT {schema}.drop_claims(ARRAY (SELECT id FROM {schema}.claims WHERE lease_id = $1 AND id = ANY ($2::bigint[])))

-- name: end_leases
-- See the function.
SELECT {schema}.end_leases($1)

-- name: housekeeping
-- The settings anew, and which kinds of work there are to do; noted, that somebody has looked.
SELECT queue.id, queue.visibility_timeout_seconds, queue.max_retries, queue.message_retention_seconds,
    queue.completed_retention_seconds, queue.dead_letter_enabled, queue.dead_letter_retention_days,
    queue.paused OR queue.paused_by_hand AS paused,
    chores.*, {schema}.keep_watch(queue.id)
FROM {schema}.queues AS queue, LATERAL {schema}.chores(queue.id) AS chores
WHERE queue.name = $1

-- name: rescue
-- See the function.
SELECT rescued, poisoned FROM {schema}.rescue($1, $2, $3)

-- name: promote
-- See the function.
SELECT {schema}.promote($1, $2)

-- name: expire
-- See the function.
SELECT {schema}.expire($1, $2)

-- name: catch_up_cancellations
-- See the function.
SELECT {schema}.catch_up_cancellations($1)

-- name: sweep_groups
-- See the function.
SELECT {schema}.sweep_groups($1)

-- name: oldest_lease
-- Whether this is the queue's oldest lease.
SELECT min(id) = $2 FROM {schema}.leases WHERE queue_id = $1 AND expires_at > now()

-- name: prune_dead
-- Drop dead letters that are older than the queue keeps them.
WITH pruned AS (
    DELETE FROM {schema}.dead_jobs
    WHERE ctid = ANY (ARRAY (
        SELECT dead.ctid
        FROM {schema}.dead_jobs AS dead
        WHERE dead.queue_id = $1 AND dead.dead_at <= now() - (
            SELECT dead_letter_retention_days * interval '1 day' FROM {schema}.queues WHERE id = $1
        )
        ORDER BY dead.dead_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
)
SELECT count(*)::integer FROM pruned

-- name: prune_finished
-- Drop what is older than the queue's history reaches back.
WITH pruned AS (
    DELETE FROM {schema}.finished_jobs
    WHERE ctid = ANY (ARRAY (
        SELECT job.ctid
        FROM {schema}.finished_jobs AS job
        WHERE job.queue_id = $1 AND job.finished_at <= now() - (
            SELECT completed_retention_seconds * interval '1 second' FROM {schema}.queues WHERE id = $1
        )
        ORDER BY job.finished_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
)
SELECT count(*)::integer FROM pruned

-- name: prune_keys
-- Free the deduplication keys whose time is over.
WITH pruned AS (
    DELETE FROM {schema}.deduplication_keys
    WHERE ctid = ANY (ARRAY (
        SELECT taken.ctid
        FROM {schema}.deduplication_keys AS taken
        WHERE taken.queue_id = $1 AND taken.finished AND taken.kept_until <= now()
        ORDER BY taken.kept_until
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING key
)
SELECT count(*)::integer FROM pruned

-- name: depths
-- See the function.
SELECT name, ready, delayed, in_flight, dead_lettered, oldest_ready_age_seconds FROM {schema}.depths($1)

-- name: shared_depth
-- The count that a worker shared, if it is young enough.
SELECT ready, delayed, in_flight, dead_lettered,
    oldest_ready_age_seconds + CASE WHEN ready > 0 THEN extract(epoch FROM now() - counted_at) ELSE 0 END
        AS oldest_ready_age_seconds
FROM {schema}.queue_stats
WHERE queue_id = $1 AND counted_at >= now() - $2 * interval '1 second'

-- name: count_and_share
-- Count the queue, if the shared count is still too old once it is our turn: whoever waited for the row's lock finds it
-- young again, counts nothing and gets no row.
WITH turn AS MATERIALIZED (
    SELECT queue_id
    FROM {schema}.queue_stats
    WHERE queue_id = $1 AND counted_at < now() - $2 * interval '1 second'
    FOR UPDATE
)
UPDATE {schema}.queue_stats AS stats
SET counted_at = now(), ready = counted.ready, delayed = counted.delayed, in_flight = counted.in_flight,
    dead_lettered = counted.dead_lettered, oldest_ready_age_seconds = counted.oldest_ready_age_seconds
FROM turn, LATERAL {schema}.depths(ARRAY (SELECT name FROM {schema}.queues WHERE id = turn.queue_id)) AS counted
WHERE stats.queue_id = turn.queue_id
RETURNING stats.ready, stats.delayed, stats.in_flight, stats.dead_lettered, stats.oldest_ready_age_seconds

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
SELECT id, owner_namespace, owner_name, owner_uid, visibility_timeout_seconds, max_retries, message_retention_seconds,
    completed_retention_seconds, dead_letter_enabled, dead_letter_retention_days, paused
FROM {schema}.queues
WHERE name = $1
FOR NO KEY UPDATE

-- name: register_queue
-- A new queue, with its place in the shared counts, and watched from now on.
WITH queue AS (
    INSERT INTO {schema}.queues (name, owner_namespace, owner_name, owner_uid, visibility_timeout_seconds, max_retries,
        message_retention_seconds, completed_retention_seconds, dead_letter_enabled, dead_letter_retention_days, paused)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    RETURNING id
), watch AS (
    INSERT INTO {schema}.watches (queue_id, since, seen_at) SELECT id, now(), now() FROM queue
)
INSERT INTO {schema}.queue_stats (queue_id) SELECT id FROM queue

-- name: update_queue
-- New settings, or the same owner under a new uid.
UPDATE {schema}.queues
SET owner_uid = $2, visibility_timeout_seconds = $3, max_retries = $4, message_retention_seconds = $5,
    completed_retention_seconds = $6, dead_letter_enabled = $7, dead_letter_retention_days = $8, paused = $9
WHERE id = $1

-- name: pause_queue
-- No job is claimed any more.
UPDATE {schema}.queues SET paused = true WHERE id = $1

-- name: remove_jobs
-- One batch of a queue's jobs that can be claimed.
WITH removed AS (
    DELETE FROM {schema}.jobs
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM {schema}.jobs WHERE queue_id = $1 LIMIT $2))
    RETURNING id
)
SELECT count(*)::integer FROM removed

-- name: remove_parked_jobs
-- One batch of a queue's parked jobs.
WITH removed AS (
    DELETE FROM {schema}.parked_jobs
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM {schema}.parked_jobs WHERE queue_id = $1 LIMIT $2))
    RETURNING id
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

-- name: remove_remaining_jobs
-- The few jobs that came while the batches were removed, all claims, and the flags of who waits.
WITH parked AS (DELETE FROM {schema}.parked_jobs WHERE queue_id = $1),
    waiting AS (DELETE FROM {schema}.waiters WHERE queue_id = $1),
    claimed AS (DELETE FROM {schema}.claims WHERE queue_id = $1)
DELETE FROM {schema}.jobs WHERE queue_id = $1

-- name: remove_queue
-- The queue itself; leases, dead letters, history and shared counts go with it.
DELETE FROM {schema}.queues WHERE id = $1

-- name: inspect_queues
-- All queues, with their depths.
SELECT queue.name, queue.visibility_timeout_seconds, queue.max_retries, queue.message_retention_seconds,
    queue.completed_retention_seconds, queue.dead_letter_enabled, queue.dead_letter_retention_days, queue.paused,
    queue.paused_by_hand, queue.owner_namespace, queue.owner_name, queue.owner_uid, counted.ready, counted.delayed,
    counted.in_flight, counted.dead_lettered, counted.oldest_ready_age_seconds
FROM {schema}.queues AS queue
    JOIN {schema}.depths(ARRAY (SELECT name FROM {schema}.queues)) AS counted ON counted.name = queue.name
ORDER BY queue.name

-- name: inspect_pause
-- Pause a queue by hand, or end that; its id.
UPDATE {schema}.queues SET paused_by_hand = $2 WHERE name = $1 RETURNING id

-- name: inspect_ids
-- Whole jobs, by id. A job that moves meanwhile is seen where it was or where it is, and once.
SELECT id, queue, name, status, priority, attempt, message_group, deduplication_key, payload_bytes, content_type, headers,
    enqueued_at, run_at, expires_at, worker, failures, reason, ended_at, progress
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
    (SELECT group_key, id FROM {schema}.parked_jobs WHERE queue_id = $1 AND state IN (2, 3) ORDER BY group_key, id LIMIT 1)
    UNION ALL
    SELECT next.group_key, next.id
    FROM heads, LATERAL (
        SELECT group_key, id
        FROM {schema}.parked_jobs
        WHERE queue_id = $1 AND state IN (2, 3) AND group_key > heads.group_key
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
    WHERE job.queue_id = $1 AND job.state = 1 AND job.run_at <= now() AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    ORDER BY job.run_at
    LIMIT $4)
    UNION ALL
    (SELECT job.id, job.priority
    FROM heads JOIN {schema}.parked_jobs AS job ON job.queue_id = $1 AND job.id = heads.id
    WHERE job.state = 2 AND (job.run_at IS NULL OR job.run_at <= now()) AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
        AND NOT EXISTS (SELECT FROM {schema}.jobs AS head WHERE head.queue_id = $1 AND head.group_key = job.group_key)
        AND NOT EXISTS (SELECT FROM {schema}.parked_jobs AS head
            WHERE head.queue_id = $1 AND head.group_key = job.group_key AND head.state IN (1, 4))
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
WHERE job.queue_id = $1 AND job.state = 4 AND (job.run_at IS NULL OR job.run_at <= now())
    AND ($2::text IS NULL OR job.name = $2)
    AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
ORDER BY job.priority DESC, job.id
LIMIT $4

-- name: inspect_delayed
-- The jobs whose time comes next; heads of groups among them.
WITH RECURSIVE heads (group_key, id) AS (
    (SELECT group_key, id FROM {schema}.parked_jobs WHERE queue_id = $1 AND state IN (2, 3) ORDER BY group_key, id LIMIT 1)
    UNION ALL
    SELECT next.group_key, next.id
    FROM heads, LATERAL (
        SELECT group_key, id
        FROM {schema}.parked_jobs
        WHERE queue_id = $1 AND state IN (2, 3) AND group_key > heads.group_key
        ORDER BY group_key, id
        LIMIT 1
    ) AS next
)
SELECT id, priority FROM (
    (SELECT job.id, job.priority, job.run_at
    FROM {schema}.parked_jobs AS job
    WHERE job.queue_id = $1 AND job.state = 1 AND job.run_at > now() AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    ORDER BY job.run_at
    LIMIT $4)
    UNION ALL
    SELECT job.id, job.priority, job.run_at
    FROM {schema}.parked_jobs AS job
    WHERE job.queue_id = $1 AND job.state = 4 AND job.run_at > now() AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    UNION ALL
    (SELECT job.id, job.priority, job.run_at
    FROM heads JOIN {schema}.parked_jobs AS job ON job.queue_id = $1 AND job.id = heads.id
    WHERE job.state = 2 AND job.run_at > now() AND ($2::text IS NULL OR job.name = $2)
        AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
        AND NOT EXISTS (SELECT FROM {schema}.jobs AS head WHERE head.queue_id = $1 AND head.group_key = job.group_key)
        AND NOT EXISTS (SELECT FROM {schema}.parked_jobs AS head
            WHERE head.queue_id = $1 AND head.group_key = job.group_key AND head.state IN (1, 4))
    LIMIT $4)
) AS candidate
ORDER BY run_at, id
LIMIT $4

-- name: inspect_blocked
-- The jobs behind the heads of their groups, group by group.
SELECT job.id, job.priority
FROM {schema}.parked_jobs AS job
WHERE job.queue_id = $1 AND job.state IN (2, 3) AND ($2::text IS NULL OR job.name = $2)
    AND job.enqueued_at <= now() - coalesce($3::double precision, 0) * interval '1 second'
    AND (job.state = 3
        OR EXISTS (SELECT FROM {schema}.jobs AS head WHERE head.queue_id = $1 AND head.group_key = job.group_key)
        OR EXISTS (SELECT FROM {schema}.parked_jobs AS head
            WHERE head.queue_id = $1 AND head.group_key = job.group_key AND head.state IN (1, 4))
        OR EXISTS (SELECT FROM {schema}.parked_jobs AS head
            WHERE head.queue_id = $1 AND head.group_key = job.group_key AND head.state IN (2, 3) AND head.id < job.id))
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
-- A job that waits for its time waits no longer.
UPDATE {schema}.parked_jobs SET run_at = now() WHERE queue_id = $1 AND id = $2 AND run_at > now() RETURNING id

-- name: inspect_cancel
-- See the function.
SELECT {schema}.cancel($1, $2)

-- name: inspect_redrive
-- See the function.
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

-- name: inspect_recover_stuck
-- See the function.
SELECT {schema}.recover_stuck($1, $2, $3, $4)
