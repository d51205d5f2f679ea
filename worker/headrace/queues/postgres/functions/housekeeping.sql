-- Housekeeping: what workers look after, every few seconds and in small batches. Each kind of work is done by one worker
-- at a time, or by whoever comes: nobody waits.

-- Which kinds of housekeeping there are to do. Each answer is one look into an index.
CREATE OR REPLACE FUNCTION {schema}.chores(p_queue integer)
RETURNS TABLE (rescue boolean, promote boolean, expire boolean, prune_dead boolean, prune_finished boolean,
    prune_keys boolean, cancellations boolean, groups boolean, suspects boolean)
LANGUAGE plpgsql STABLE SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $body$
DECLARE
    watch {schema}.watches;
BEGIN
    SELECT * INTO watch
    FROM {schema}.watches
    WHERE queue_id >= p_queue AND queue_id <= p_queue
    ORDER BY queue_id DESC
    LIMIT 1;
    RETURN QUERY
        -- One after another, each by its newest version.
        WITH RECURSIVE lease (id, runs) AS (
            (SELECT one.id, {schema}.runs(one.expires_at, one.lease_seconds)
                FROM {schema}.leases AS one
                WHERE one.queue_id = p_queue
                ORDER BY one.id DESC
                LIMIT 1)
            UNION ALL
            SELECT below.id, below.runs
            FROM lease,
                LATERAL (
                    SELECT one.id, {schema}.runs(one.expires_at, one.lease_seconds) AS runs
                    FROM {schema}.leases AS one
                    WHERE one.queue_id = p_queue AND one.id < lease.id
                    ORDER BY one.id DESC
                    LIMIT 1
                ) AS below
        )
        SELECT
            EXISTS (SELECT FROM lease WHERE NOT lease.runs),
            -- From where claims look, which is past what an old transaction keeps.
            coalesce((
                SELECT run_at <= now() FROM {schema}.parked_jobs
                WHERE queue_id = p_queue AND state = 'delayed' AND run_at >= coalesce(watch.due_from, '-infinity')
                ORDER BY run_at LIMIT 1), false)
            OR EXISTS (
                SELECT FROM {schema}.parked_jobs
                WHERE queue_id = p_queue AND state = 'arrived' AND enqueued_at >= coalesce(watch.arrived_from, '-infinity')),
            coalesce((
                SELECT expires_at <= now() FROM {schema}.jobs
                WHERE queue_id = p_queue AND expires_at IS NOT NULL AND attempt = 0 ORDER BY expires_at LIMIT 1), false)
            OR coalesce((
                SELECT expires_at <= now() FROM {schema}.parked_jobs
                WHERE queue_id = p_queue AND expires_at IS NOT NULL AND attempt = 0 ORDER BY expires_at LIMIT 1), false),
            coalesce((
                SELECT dead_at <= now() - queue.dead_letter_retention_days * interval '1 day' FROM {schema}.dead_jobs
                WHERE queue_id = p_queue ORDER BY dead_at LIMIT 1), false),
            coalesce((
                SELECT finished_at <= now() - queue.completed_retention_seconds * interval '1 second'
                FROM {schema}.finished_jobs
                WHERE queue_id = p_queue ORDER BY finished_at LIMIT 1), false),
            coalesce((
                SELECT kept_until <= now() FROM {schema}.deduplication_keys
                WHERE queue_id = p_queue AND finished ORDER BY kept_until LIMIT 1), false),
            EXISTS (SELECT FROM {schema}.cancellations WHERE queue_id = p_queue),
            coalesce({schema}.is_sweep_due(watch.swept_at, watch.swept_to), false)
            AND (EXISTS (SELECT FROM {schema}.parked_jobs WHERE queue_id = p_queue AND state = 'behind')
                OR EXISTS (SELECT FROM {schema}.groups WHERE queue_id = p_queue)
                OR EXISTS (SELECT FROM {schema}.completed_heads WHERE queue_id = p_queue)),
            EXISTS (
                SELECT FROM {schema}.parked_jobs
                WHERE queue_id = p_queue AND state = 'suspect' AND (run_at IS NULL OR run_at <= now()))
        FROM {schema}.queues AS queue
        WHERE queue.id = p_queue;
END
$body$;

-- Dead-letter jobs that were not started in time.
CREATE OR REPLACE FUNCTION {schema}.expire(p_queue integer, p_limit integer) RETURNS integer
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    held bigint[];
    late bigint[];
    late_groups text[];
    place integer;
    job {schema}.jobs;
    groups text[];
    ids bigint[] := '{}';
    dead_groups text[] := '{}';
    dead_keys text[] := '{}';
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('headrace.dev/expire/' || {schema_literal}, p_queue)) THEN
        RETURN 0;
    END IF;
    -- What runs was started in time, however long it runs.
    held := ARRAY (SELECT unnest(claim.job_ids) FROM {schema}.claims AS claim WHERE claim.queue_id = p_queue);
    SELECT array_agg(few.id), array_agg(few.group_key)
    INTO late, late_groups
    FROM (
        (SELECT id, group_key FROM {schema}.jobs
            WHERE queue_id = p_queue AND expires_at <= now() AND expires_at IS NOT NULL AND attempt = 0
                AND id NOT IN (SELECT unnest(held))
            ORDER BY expires_at LIMIT p_limit)
        UNION ALL
        (SELECT id, group_key FROM {schema}.parked_jobs
            WHERE queue_id = p_queue AND expires_at <= now() AND expires_at IS NOT NULL AND attempt = 0
            ORDER BY expires_at LIMIT p_limit)
    ) AS few;
    IF late IS NULL THEN
        RETURN 0;
    END IF;
    groups := {schema}.try_lock_groups(p_queue,
        ARRAY (SELECT DISTINCT name FROM unnest(late_groups) AS name WHERE name IS NOT NULL));
    FOR place IN 1 .. cardinality(late) LOOP
        CONTINUE WHEN late_groups[place] IS NOT NULL AND late_groups[place] <> ALL (groups);
        SELECT * INTO job FROM {schema}.take_idle(p_queue, late[place]);
        CONTINUE WHEN NOT FOUND;
        PERFORM {schema}.remember_dead(job, 'Expired', NULL);
        ids := ids || job.id;
        dead_groups := array_remove(dead_groups || job.group_key, NULL);
        dead_keys := array_remove(dead_keys || job.deduplication_key, NULL);
    END LOOP;
    IF ids <> '{}' THEN
        PERFORM {schema}.free_group_and_key(p_queue, dead_groups, dead_keys, ids);
        PERFORM {schema}.add_totals(p_queue, p_dead_lettered => cardinality(ids));
    END IF;
    RETURN cardinality(ids);
END
$body$;

-- Cancel for good what was to be cancelled while it ran, and was handed back, or lost, instead.
CREATE OR REPLACE FUNCTION {schema}.catch_up_cancellations(p_queue integer) RETURNS integer
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    wanted bigint;
    job {schema}.jobs;
    gone {schema}.jobs[] := '{}';
    groups text[];
BEGIN
    groups := {schema}.try_lock_groups(p_queue,
        {schema}.groups_of(p_queue, ARRAY (SELECT job_id FROM {schema}.cancellations WHERE queue_id = p_queue)));
    FOR wanted IN SELECT job_id FROM {schema}.cancellations WHERE queue_id = p_queue LOOP
        CONTINUE WHEN NOT {schema}.groups_of(p_queue, ARRAY [wanted]) <@ groups;
        SELECT * INTO job FROM {schema}.take_idle(p_queue, wanted);
        IF FOUND THEN
            PERFORM {schema}.remember_finished(job, 'cancelled');
            job.payload := '';
            gone := gone || job;
        ELSE
            -- Gone, unless held, or just being moved.
            DELETE FROM {schema}.cancellations
            WHERE queue_id = p_queue AND job_id = wanted AND NOT {schema}.is_unfinished(p_queue, wanted);
        END IF;
    END LOOP;
    PERFORM {schema}.end_cancelled(p_queue, gone);
    RETURN cardinality(gone);
END
$body$;
