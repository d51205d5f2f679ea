-- Housekeeping. Named queries; what they call stands in ``functions/``.

-- name: housekeeping
-- The settings anew, and which kinds of work there are to do; noted, that somebody has looked.
SELECT queue.id, queue.visibility_timeout_seconds, queue.max_retries, queue.message_retention_seconds,
    queue.completed_retention_seconds, queue.dead_letter_enabled, queue.dead_letter_retention_days,
    queue.paused OR queue.paused_by_hand AS paused,
    (SELECT compatible_with FROM {schema}.migrations ORDER BY version DESC LIMIT 1) AS compatible_with,
    chores.*, {schema}.keep_watch(queue.id)
FROM {schema}.queues AS queue, LATERAL {schema}.chores(queue.id) AS chores
WHERE queue.name = $1

-- name: rescue
-- Put back up to $3 jobs of one lease that ran out, some of them as suspects; whether to ask again.
SELECT rescued, suspects, poisoned, is_more FROM {schema}.rescue($1, $2, $3)

-- name: promote
-- What is due, and heads of groups, can be claimed from now on; how many.
SELECT {schema}.promote($1, $2)

-- name: expire
-- Dead-letter what was not started in time; how many.
SELECT {schema}.expire($1, $2)

-- name: catch_up_cancellations
-- Cancel for good what was handed back instead; how many.
SELECT {schema}.catch_up_cancellations($1)

-- name: sweep_groups
-- Let groups go on that have no head; how many.
SELECT {schema}.sweep_groups($1)

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
