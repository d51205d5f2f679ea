-- Every query of the Postgres backend, by name. States: 0 ready, 1 delayed, 2 running.
--
-- Batches are found as `id = ANY(ARRAY(SELECT … FOR UPDATE SKIP LOCKED))`: the array is computed once and looked up by
-- primary key. A join in its place lets the planner scan the whole queue.

-- name: find_queue
-- The queue's row: its id and its settings, as of now.
SELECT id, visibility_timeout_seconds, max_retries, message_retention_seconds, dead_letter_enabled,
    dead_letter_retention_days, paused
FROM {schema}.queues
WHERE name = $1

-- name: schema_version
-- The newest migration applied, and the oldest code that can still work with it.
SELECT version, compatible_with FROM {schema}.migrations ORDER BY version DESC LIMIT 1

-- name: enqueue
-- Insert jobs in the order given. The queue's retention counts from the moment a job could first start.
INSERT INTO {schema}.jobs
    (queue_id, state, run_at, expires_at, priority, name, payload, content_type, headers)
SELECT queue.id,
    CASE WHEN job.run_at > now() THEN 1 ELSE 0 END,
    job.run_at,
    coalesce(job.expires_at, job.run_at + queue.message_retention_seconds * interval '1 second'),
    job.priority, job.name, job.payload, job.content_type, job.headers
FROM {schema}.queues AS queue,
    LATERAL (
        SELECT coalesce(raw.run_at, now() + raw.delay_seconds * interval '1 second') AS run_at, raw.expires_at,
            raw.priority, raw.name, raw.payload, raw.content_type, raw.headers, raw.place
        FROM unnest($2::timestamptz[], $3::double precision[], $4::timestamptz[], $5::smallint[], $6::text[],
                $7::bytea[], $8::text[], $9::jsonb[])
            WITH ORDINALITY AS raw (run_at, delay_seconds, expires_at, priority, name, payload, content_type, headers,
                place)
    ) AS job
WHERE queue.id = $1
ORDER BY job.place
RETURNING id

-- name: claim
-- Lease ready jobs under a lease that exists, unless the queue is paused; charges the attempt.
UPDATE {schema}.jobs
SET state = 2, lease_id = $3, attempt = attempt + 1
WHERE id = ANY (ARRAY (
    SELECT id
    FROM {schema}.jobs
    WHERE queue_id = $1 AND state = 0 AND (expires_at IS NULL OR attempt > 0 OR expires_at > now())
        AND (SELECT true FROM {schema}.leases WHERE id = $3)
        AND NOT (SELECT paused FROM {schema}.queues WHERE id = $1)
    ORDER BY priority DESC, id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
))
RETURNING id, lease_id, attempt, priority, name, payload, content_type, headers, enqueued_at, run_at, expires_at,
    group_key, deduplication_key

-- name: claim_with_new_lease
-- The same for a receiver without heartbeats: a lease of the queue's visibility timeout comes with the jobs, if any.
WITH picked AS MATERIALIZED (
    SELECT id
    FROM {schema}.jobs
    WHERE queue_id = $1 AND state = 0 AND (expires_at IS NULL OR attempt > 0 OR expires_at > now())
        AND NOT (SELECT paused FROM {schema}.queues WHERE id = $1)
    ORDER BY priority DESC, id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
), lease AS (
    INSERT INTO {schema}.leases (queue_id, expires_at, holder)
    SELECT id, now() + visibility_timeout_seconds * interval '1 second', $3
    FROM {schema}.queues
    WHERE id = $1 AND EXISTS (SELECT FROM picked)
    RETURNING id
)
UPDATE {schema}.jobs
SET state = 2, lease_id = (SELECT id FROM lease), attempt = attempt + 1
WHERE id = ANY (ARRAY (SELECT id FROM picked))
RETURNING id, lease_id, attempt, priority, name, payload, content_type, headers, enqueued_at, run_at, expires_at,
    group_key, deduplication_key

-- name: promote
-- Make delayed jobs ready that are due.
WITH due AS (
    UPDATE {schema}.jobs
    SET state = 0
    WHERE id = ANY (ARRAY (
        SELECT id
        FROM {schema}.jobs
        WHERE queue_id = $1 AND state = 1 AND run_at <= now()
        ORDER BY run_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
)
SELECT count(*)::integer FROM due

-- name: complete
-- Jobs of one lease and attempt are done: gone, unless the lease was lost before.
DELETE FROM {schema}.jobs
WHERE id = ANY ($1::bigint[]) AND lease_id = $2 AND attempt = $3
RETURNING id

-- name: release
-- Hand jobs of one lease and attempt back, the attempt uncharged.
UPDATE {schema}.jobs
SET lease_id = NULL, attempt = attempt - 1,
    state = CASE WHEN $4::double precision > 0 THEN 1 ELSE 0 END,
    run_at = CASE WHEN $4::double precision > 0 THEN now() + $4 * interval '1 second' ELSE run_at END
WHERE id = ANY ($1::bigint[]) AND lease_id = $2 AND attempt = $3
RETURNING id

-- name: retry
-- The attempt failed: again after the delay, or to the dead-letter queue where no attempt is left.
WITH queue AS (
    SELECT max_retries, dead_letter_enabled FROM {schema}.queues WHERE id = $1
), again AS (
    UPDATE {schema}.jobs
    SET lease_id = NULL, last_error = $6,
        state = CASE WHEN $5::double precision > 0 THEN 1 ELSE 0 END,
        run_at = now() + $5 * interval '1 second'
    WHERE id = $2 AND lease_id = $3 AND attempt = $4 AND attempt <= (SELECT max_retries FROM queue)
    RETURNING id
), dead AS (
    DELETE FROM {schema}.jobs
    WHERE id = $2 AND lease_id = $3 AND attempt = $4 AND attempt > (SELECT max_retries FROM queue)
    RETURNING *
), buried AS (
    INSERT INTO {schema}.dead_jobs (id, queue_id, reason, error, enqueued_at, run_at, expires_at, attempt, priority,
        name, payload, content_type, headers, group_key, deduplication_key)
    SELECT id, queue_id, 'RetriesExhausted', $6, enqueued_at, run_at, expires_at, attempt, priority, name, payload,
        content_type, headers, group_key, deduplication_key
    FROM dead
    WHERE (SELECT dead_letter_enabled FROM queue)
)
SELECT (SELECT count(*)::integer FROM again) AS again, (SELECT count(*)::integer FROM dead) AS dead

-- name: dead_letter
-- Give a job up, keeping it whole where the queue keeps dead letters.
WITH dead AS (
    DELETE FROM {schema}.jobs
    WHERE id = $2 AND lease_id = $3 AND attempt = $4
    RETURNING *
), buried AS (
    INSERT INTO {schema}.dead_jobs (id, queue_id, reason, error, enqueued_at, run_at, expires_at, attempt, priority,
        name, payload, content_type, headers, group_key, deduplication_key)
    SELECT id, queue_id, $5, last_error, enqueued_at, run_at, expires_at, attempt, priority, name, payload,
        content_type, headers, group_key, deduplication_key
    FROM dead
    WHERE (SELECT dead_letter_enabled FROM {schema}.queues WHERE id = $1)
)
SELECT count(*)::integer FROM dead

-- name: start_lease
-- A heartbeat lease.
INSERT INTO {schema}.leases (queue_id, expires_at, holder)
VALUES ($1, now() + $2 * interval '1 second', $3)
RETURNING id

-- name: extend_lease
-- Still here. A lease that ran out but was judged by nobody is as good as new; one that was judged is gone.
UPDATE {schema}.leases SET expires_at = now() + $2 * interval '1 second' WHERE id = $1 RETURNING id

-- name: end_leases
-- Give leases back, so that nobody waits for them to run out.
DELETE FROM {schema}.leases WHERE id = ANY ($1::bigint[])

-- name: lock_rescue
-- One rescuer at a time in each queue; false where another is at it.
SELECT pg_try_advisory_xact_lock(hashtextextended($2, $1))

-- name: judge_leases
-- End the leases that ran out, unless the server was away less than a lease ago: let everybody report first.
DELETE FROM {schema}.leases
WHERE id = ANY (ARRAY (
    SELECT id
    FROM {schema}.leases
    WHERE queue_id = $1 AND expires_at <= now()
        AND now() - pg_postmaster_start_time() >= $2 * interval '1 second'
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)) AND expires_at <= now()
RETURNING id

-- name: rescue
-- Put jobs back that run under a lease which no longer exists, the attempt uncharged. Leases are found first and
-- compared by id: a job that its old holder released, and a new one claimed, meanwhile has another lease.
WITH dead AS MATERIALIZED (
    SELECT DISTINCT job.lease_id
    FROM {schema}.jobs AS job
    WHERE job.queue_id = $1 AND job.state = 2
        AND NOT EXISTS (SELECT FROM {schema}.leases AS lease WHERE lease.id = job.lease_id)
), rescued AS (
    UPDATE {schema}.jobs
    SET state = 0, lease_id = NULL, attempt = attempt - 1
    WHERE id = ANY (ARRAY (
        SELECT id
        FROM {schema}.jobs
        WHERE queue_id = $1 AND state = 2 AND lease_id = ANY (ARRAY (SELECT lease_id FROM dead))
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
)
SELECT count(*)::integer FROM rescued

-- name: expire
-- Dead-letter jobs that were not started in time.
WITH dead AS (
    DELETE FROM {schema}.jobs
    WHERE id = ANY (ARRAY (
        SELECT id
        FROM {schema}.jobs
        WHERE queue_id = $1 AND expires_at <= now() AND expires_at IS NOT NULL AND attempt = 0 AND state <> 2
        ORDER BY expires_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING *
), buried AS (
    INSERT INTO {schema}.dead_jobs (id, queue_id, reason, error, enqueued_at, run_at, expires_at, attempt, priority,
        name, payload, content_type, headers, group_key, deduplication_key)
    SELECT id, queue_id, 'Expired', last_error, enqueued_at, run_at, expires_at, attempt, priority, name, payload,
        content_type, headers, group_key, deduplication_key
    FROM dead
    WHERE (SELECT dead_letter_enabled FROM {schema}.queues WHERE id = $1)
)
SELECT count(*)::integer FROM dead

-- name: prune
-- Drop dead letters that are older than the queue keeps them.
WITH pruned AS (
    DELETE FROM {schema}.dead_jobs
    WHERE id = ANY (ARRAY (
        SELECT dead.id
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

-- name: depths
-- Count queues by name. Ready are jobs that could start now: due, unexpired, held by nobody who is known to live (what
-- a dead worker held must wake a pool that is at zero). Whole partial indexes are counted and the few expired
-- subtracted, so that no ready or delayed row is visited. The oldest is looked for among the first hundred
-- of each priority: exact but for retried jobs, which stand at the head with a later due time. (BETWEEN, because with =
-- the planner may walk the primary key for a priority that nobody uses.)
SELECT queue.name,
    (SELECT count(*) FROM {schema}.jobs AS job WHERE job.queue_id = queue.id AND job.state = 0)
    + (SELECT count(*) FROM {schema}.jobs AS job
        WHERE job.queue_id = queue.id AND job.state = 1 AND job.run_at <= now())
    - (SELECT count(*) FROM {schema}.jobs AS job
        WHERE job.queue_id = queue.id AND job.expires_at <= now() AND job.run_at <= now()
            AND job.expires_at IS NOT NULL AND job.attempt = 0 AND job.state <> 2)
    + running.stranded AS ready,
    (SELECT count(*) FROM {schema}.jobs AS job
        WHERE job.queue_id = queue.id AND job.state = 1 AND job.run_at > now()) AS delayed,
    running.held AS in_flight,
    (SELECT count(*) FROM {schema}.dead_jobs AS dead WHERE dead.queue_id = queue.id) AS dead_lettered,
    coalesce(extract(epoch FROM now() - least(
        (SELECT min(head.run_at)
            FROM generate_series(0, 10) AS level (priority),
                LATERAL (
                    SELECT job.run_at
                    FROM {schema}.jobs AS job
                    WHERE job.queue_id = queue.id AND job.state = 0
                        AND job.priority BETWEEN level.priority AND level.priority
                        AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now())
                    ORDER BY job.priority DESC, job.id
                    LIMIT 100
                ) AS head),
        (SELECT min(job.run_at)
            FROM {schema}.jobs AS job
            WHERE job.queue_id = queue.id AND job.state = 1 AND job.run_at <= now()
                AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now())),
        running.stranded_since
    )), 0)::double precision AS oldest_ready_age_seconds
FROM {schema}.queues AS queue,
    LATERAL (
        SELECT count(*) FILTER (WHERE lease.id IS NOT NULL) AS held,
            count(*) FILTER (WHERE lease.id IS NULL) AS stranded,
            min(job.run_at) FILTER (WHERE lease.id IS NULL) AS stranded_since
        FROM {schema}.jobs AS job
            LEFT JOIN {schema}.leases AS lease ON lease.id = job.lease_id AND lease.expires_at > now()
        WHERE job.queue_id = queue.id AND job.state = 2
    ) AS running
WHERE queue.name = ANY ($1::text[])

-- name: shared_depth
-- The count that a worker shared, if it is young enough.
SELECT ready, delayed, in_flight, dead_lettered,
    oldest_ready_age_seconds + CASE WHEN ready > 0 THEN extract(epoch FROM now() - counted_at) ELSE 0 END
        AS oldest_ready_age_seconds
FROM {schema}.queue_stats
WHERE queue_id = $1 AND counted_at >= now() - $2 * interval '1 second'

-- name: take_turn_to_count
-- Lock the shared count if it is too old. Whoever waited for the lock finds it young again and gets no row.
SELECT queue_id
FROM {schema}.queue_stats
WHERE queue_id = $1 AND counted_at < now() - $2 * interval '1 second'
FOR UPDATE

-- name: share_depth
-- Share a count with the other workers.
UPDATE {schema}.queue_stats
SET counted_at = now(), ready = $2, delayed = $3, in_flight = $4, dead_lettered = $5, oldest_ready_age_seconds = $6
WHERE queue_id = $1

-- name: lock_queue
-- The queue's row and owner, locked for the rest of the transaction.
SELECT id, owner_namespace, owner_name, owner_uid, visibility_timeout_seconds, max_retries, message_retention_seconds,
    dead_letter_enabled, dead_letter_retention_days, paused
FROM {schema}.queues
WHERE name = $1
FOR UPDATE

-- name: register_queue
-- A new queue, with its place in the shared counts.
WITH queue AS (
    INSERT INTO {schema}.queues (name, owner_namespace, owner_name, owner_uid, visibility_timeout_seconds, max_retries,
        message_retention_seconds, dead_letter_enabled, dead_letter_retention_days, paused)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    RETURNING id
)
INSERT INTO {schema}.queue_stats (queue_id) SELECT id FROM queue

-- name: update_queue
-- New settings, or the same owner under a new uid.
UPDATE {schema}.queues
SET owner_uid = $2, visibility_timeout_seconds = $3, max_retries = $4, message_retention_seconds = $5,
    dead_letter_enabled = $6, dead_letter_retention_days = $7, paused = $8
WHERE id = $1

-- name: pause_queue
-- No job is claimed any more.
UPDATE {schema}.queues SET paused = true WHERE id = $1

-- name: remove_jobs
-- One batch of a queue's jobs, of one state (each state has its index).
WITH removed AS (
    DELETE FROM {schema}.jobs
    WHERE id = ANY (ARRAY (SELECT id FROM {schema}.jobs WHERE queue_id = $1 AND state = $2::smallint LIMIT $3))
    RETURNING id
)
SELECT count(*)::integer FROM removed

-- name: lock_jobs
-- Wait for every enqueue under way and hold the next: afterwards each of them either is seen or sees no queue.
LOCK TABLE {schema}.jobs IN SHARE ROW EXCLUSIVE MODE

-- name: remove_remaining_jobs
-- The few jobs that came while the batches were removed.
DELETE FROM {schema}.jobs
WHERE (queue_id = $1 AND state = 0) OR (queue_id = $1 AND state = 1) OR (queue_id = $1 AND state = 2)

-- name: remove_queue
-- The queue itself; leases, dead letters and shared counts go with it.
DELETE FROM {schema}.queues WHERE id = $1
