-- What people do to single jobs by hand.

-- Take a job that nobody holds out of the queue, wherever it stands; no row where it is held, not there, or where somebody
-- has it locked, to claim or to move it. Call it under lock_groups of the job's group.
CREATE OR REPLACE FUNCTION {schema}.take_idle(p_queue integer, p_id bigint) RETURNS SETOF {schema}.jobs
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    level smallint;
BEGIN
    RETURN QUERY
        DELETE FROM {schema}.parked_jobs
        WHERE queue_id = p_queue AND id = ANY (ARRAY (
            SELECT idle.id
            FROM {schema}.parked_jobs AS idle
            WHERE idle.queue_id = p_queue AND idle.id = p_id
            FOR UPDATE SKIP LOCKED
        ))
        RETURNING {job_row};
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT found.priority INTO level
    FROM generate_series(0, 10) AS number,
        LATERAL (
            SELECT job.priority
            FROM {schema}.jobs AS job
            WHERE job.queue_id = p_queue AND job.priority = number::smallint AND job.id = p_id
            OFFSET 0
            FOR UPDATE SKIP LOCKED
        ) AS found;
    -- Locked, and only then looked at: nobody claims it in between. Who has it locked already claims or completes it.
    IF FOUND AND p_id <> ALL ({schema}.held_ids(p_queue, level, p_id)) THEN
        RETURN QUERY SELECT * FROM {schema}.take(p_queue, level, ARRAY [p_id]);
    END IF;
END
$body$;

-- Whether there is such a job, in one look: who moves it meanwhile does so in one step.
CREATE OR REPLACE FUNCTION {schema}.is_unfinished(p_queue integer, p_id bigint) RETURNS boolean
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
BEGIN
    RETURN EXISTS (SELECT FROM {schema}.parked_jobs WHERE queue_id = p_queue AND id = p_id)
        OR EXISTS (
            SELECT
            FROM generate_series(0, 10) AS level (priority),
                LATERAL (
                    SELECT
                    FROM {schema}.jobs AS job
                    WHERE job.queue_id = p_queue AND job.priority = level.priority::smallint AND job.id = p_id
                    OFFSET 0
                ) AS found
        );
END
$body$;

-- Cancel a job: 'cancelled' at once where nobody holds it, 'requested' where a worker must stop it first (or somebody is
-- just moving it: then catch_up_cancellations() finds it), null where there is no such job.
CREATE OR REPLACE FUNCTION {schema}.cancel(p_queue integer, p_id bigint) RETURNS text
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    job {schema}.jobs;
BEGIN
    PERFORM {schema}.lock_groups(p_queue, {schema}.groups_of(p_queue, ARRAY [p_id]));
    SELECT * INTO job FROM {schema}.take_idle(p_queue, p_id);
    IF FOUND THEN
        PERFORM {schema}.remember_finished(job, 'cancelled');
        PERFORM {schema}.end_cancelled(p_queue, ARRAY [job]);
        RETURN 'cancelled';
    END IF;
    IF {schema}.is_unfinished(p_queue, p_id) THEN
        INSERT INTO {schema}.cancellations (queue_id, job_id) VALUES (p_queue, p_id) ON CONFLICT DO NOTHING;
        RETURN 'requested';
    END IF;
    RETURN NULL;
END
$body$;

-- Let a job that waits for its time wait no longer; whether it did. Under its group's lock: whoever lets the group go on
-- has looked at the row by then, or looks at it afterwards.
CREATE OR REPLACE FUNCTION {schema}.make_due(p_queue integer, p_id bigint) RETURNS boolean
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
BEGIN
    PERFORM {schema}.lock_groups(p_queue, {schema}.groups_of(p_queue, ARRAY [p_id]));
    UPDATE {schema}.parked_jobs SET run_at = now() WHERE queue_id = p_queue AND id = p_id AND run_at > now();
    RETURN FOUND;
END
$body$;

-- Put dead jobs back under their ids, with all attempts before them; gives the ids. A job whose deduplication key another
-- has by now stays dead. A job of a group arrives anew: behind the head of its group, and in the order of ids.
CREATE OR REPLACE FUNCTION {schema}.redrive(p_queue integer, p_ids bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    ids bigint[];
    places tid[];
    keyed record;
BEGIN
    SELECT array_agg(dead.id), array_agg(dead.place)
    INTO ids, places
    FROM unnest(p_ids) AS wanted (id),
        LATERAL (
            SELECT job.id, job.ctid AS place
            FROM {schema}.dead_jobs AS job
            WHERE job.queue_id = p_queue AND job.id = wanted.id
            OFFSET 0
            FOR UPDATE SKIP LOCKED
        ) AS dead;
    -- In the order in which producers take keys.
    FOR keyed IN
        SELECT dead.id, dead.deduplication_key AS key, dead.ctid AS place
        FROM {schema}.dead_jobs AS dead
        WHERE dead.ctid = ANY (places) AND dead.deduplication_key IS NOT NULL
        ORDER BY dead.deduplication_key, dead.id
    LOOP
        DELETE FROM {schema}.deduplication_keys AS taken
        WHERE taken.queue_id = p_queue AND taken.key = keyed.key AND taken.finished
            AND (taken.kept_until IS NULL OR taken.kept_until <= now());
        INSERT INTO {schema}.deduplication_keys AS taken (queue_id, key, job_id) VALUES (p_queue, keyed.key, keyed.id)
        ON CONFLICT (queue_id, key) DO UPDATE SET finished = false WHERE taken.job_id = excluded.job_id;
        IF NOT FOUND THEN
            ids := array_remove(ids, keyed.id);
            places := array_remove(places, keyed.place);
        END IF;
    END LOOP;
    WITH gone AS (
        DELETE FROM {schema}.dead_jobs WHERE ctid = ANY (places) RETURNING *
    ), fresh AS (
        SELECT gone.*, now() + queue.message_retention_seconds * interval '1 second' AS new_expires_at
        FROM gone JOIN {schema}.queues AS queue ON queue.id = gone.queue_id
    ), parked AS (
        INSERT INTO {schema}.parked_jobs (id, enqueued_at, run_at, expires_at, queue_id, priority, name, payload,
            content_type, headers, group_key, deduplication_key, failures, extra, state)
        SELECT id, enqueued_at, now(), new_expires_at, queue_id, priority, name, payload, content_type, headers,
            group_key, deduplication_key, failures, extra, 'arrived'
        FROM fresh
        WHERE group_key IS NOT NULL
    )
    INSERT INTO {schema}.jobs (id, enqueued_at, run_at, expires_at, came_back, queue_id, priority, name, payload,
        content_type, headers, deduplication_key, failures, extra)
    SELECT id, enqueued_at, now(), new_expires_at, nextval('{schema_in_text}.returns'), queue_id, priority, name,
        payload, content_type, headers, deduplication_key, failures, extra
    FROM fresh
    WHERE group_key IS NULL;
    PERFORM {schema}.add_totals(p_queue, p_redriven => coalesce(cardinality(ids), 0));
    RETURN QUERY SELECT unnest(ids);
END
$body$;
