-- Jobs as rows: how they change, and how they move from table to table.
--
-- How these files are written. The functions' text is today's; each migration replaces them all, in its own transaction.
-- What changes its parameters or its result gets another name, or is dropped by that migration first.
--
-- What is hot, or decides under a lock, is a function, so that its plan is pinned and any language can call it. Plans are
-- pinned because what a planner makes of a table that was empty a moment ago would be kept while a million jobs come in.
--   * No JIT: it costs more than any of these statements.
--   * Ids are looked for in long arrays by (NOT) IN over a sub-select, which is hashed; with ANY and ALL each would be
--     compared with each. (IS TRUE keeps the planner from making a join of it, which might come back in another order.)
--   * To a planner that takes a table for empty, `id = ANY (…)` is a filter, after a walk through all that the other
--     columns let through; where it is none, each id is looked for from the root. So ids that stand together are taken
--     out of their range in one walk, and others come one by one out of a LATERAL, or are looked up first and taken by
--     their place (ctid) alone, under a lock.
--   * A first one is asked for by ORDER BY … LIMIT 1, with sorting disabled: only the index meant can do that. Where
--     something must be sorted it is sorted by an array, for a disabled sort costs a planner ten billion.
--   * Statements see what others have committed meanwhile, so that a look under a lock is the newest.

-- Which jobs of one priority somebody holds, from an id on.
CREATE OR REPLACE FUNCTION {schema}.held_ids(p_queue integer, p_priority smallint, p_from bigint) RETURNS bigint[]
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT ARRAY (
        SELECT unnest(claim.job_ids)
        FROM {schema}.claims AS claim
        WHERE claim.queue_id = p_queue AND claim.priority = p_priority AND claim.last_id >= p_from
    );
END;

-- Keep a lease from being ended before this transaction is over; false where it is gone, or judged. Rows that are written
-- again every few seconds, leases and watches, are looked for from behind where it is done often: the newest version stands
-- last, and an old transaction may keep very many before it.
CREATE OR REPLACE FUNCTION {schema}.hold_lease(p_lease bigint) RETURNS boolean
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $body$
BEGIN
    PERFORM
    FROM {schema}.leases
    WHERE id >= p_lease AND id <= p_lease AND was_alone IS NULL
    ORDER BY id DESC
    LIMIT 1
    FOR KEY SHARE;
    RETURN FOUND;
END
$body$;

-- Two rows of counts, added up place by place.
CREATE OR REPLACE FUNCTION {schema}.added(p_one bigint[], p_other bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT ARRAY (
        SELECT coalesce(pair.one, 0) + coalesce(pair.other, 0) FROM unnest(p_one, p_other) AS pair (one, other)
    );
END;

-- Add to what has happened in a queue. Waits for nobody: who finds every row locked begins another.
CREATE OR REPLACE FUNCTION {schema}.add_totals(p_queue integer, p_completed bigint DEFAULT 0, p_failed bigint DEFAULT 0,
    p_dead_lettered bigint DEFAULT 0, p_cancelled bigint DEFAULT 0, p_redriven bigint DEFAULT 0,
    p_service_seconds double precision DEFAULT 0, p_service_histogram bigint[] DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_sort = off AS $body$
DECLARE
    own bigint;
BEGIN
    IF p_completed + p_failed + p_dead_lettered + p_cancelled + p_redriven = 0 AND p_service_seconds = 0 THEN
        RETURN;
    END IF;
    SELECT id INTO own FROM {schema}.queue_totals WHERE queue_id = p_queue LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF own IS NULL THEN
        INSERT INTO {schema}.queue_totals (queue_id) VALUES (p_queue) RETURNING id INTO own;
    END IF;
    UPDATE {schema}.queue_totals
    SET completed = completed + p_completed, failed = failed + p_failed,
        dead_lettered = dead_lettered + p_dead_lettered, cancelled = cancelled + p_cancelled,
        redriven = redriven + p_redriven, service_seconds = service_seconds + p_service_seconds,
        service_histogram = {schema}.added(service_histogram, p_service_histogram)
    WHERE id = own;
END
$body$;

-- Failures of a job and one more: without the tracebacks of those before, and at most the last twenty.
CREATE OR REPLACE FUNCTION {schema}.with_failure(p_failures jsonb, p_attempt integer, p_failure jsonb) RETURNS jsonb
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(jsonb_agg(entry.value - 'traceback' ORDER BY entry.place), '[]'::jsonb)
        || (jsonb_build_object('attempt', p_attempt, 'at', now()) || p_failure)
    FROM jsonb_array_elements(coalesce(p_failures, '[]'::jsonb)) WITH ORDINALITY AS entry (value, place)
    WHERE entry.place > jsonb_array_length(coalesce(p_failures, '[]'::jsonb)) - 19;
END;

-- The job after a failed attempt, and to start again after a delay where there is one. Whoever ends an attempt clears its
-- worker's name: its losses are forgotten.
CREATE OR REPLACE FUNCTION {schema}.failed(p_job {schema}.jobs, p_failure jsonb,
    p_delay_seconds double precision DEFAULT NULL)
RETURNS {schema}.jobs
LANGUAGE plpgsql STABLE AS $body$
BEGIN
    p_job.attempt := p_job.attempt + 1;
    p_job.run_at := coalesce(now() + p_delay_seconds * interval '1 second', p_job.run_at);
    IF p_failure IS NULL THEN
    ELSIF p_job.failures IS NULL THEN
        -- As with_failure does, for 17 us a failed job in place of 27.
        p_job.failures := jsonb_build_array(jsonb_build_object('attempt', p_job.attempt, 'at', now()) || p_failure);
    ELSE
        p_job.failures := {schema}.with_failure(p_job.failures, p_job.attempt, p_failure);
    END IF;
    p_job.deaths := 0;
    p_job.losses := 0;
    p_job.lost_at := NULL;
    p_job.suspect := false;
    RETURN p_job;
END
$body$;

-- Move parked jobs, by their places, to those that can be claimed. They come back: others may have looked beyond them.
CREATE OR REPLACE FUNCTION {schema}.unpark(p_places tid[]) RETURNS integer
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    moved integer;
BEGIN
    WITH gone AS (
        DELETE FROM {schema}.parked_jobs WHERE ctid = ANY (p_places) RETURNING *
    )
    INSERT INTO {schema}.jobs ({job_columns}, came_back)
    SELECT {job_columns}, nextval('{schema_in_text}.returns')
    FROM gone;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$body$;

-- Whether jobs stand so close together that one walk from the first to the last, which passes few others, costs less than
-- a look for each (five times what a step costs). What was claimed from the frontier does, each priority by itself; what
-- came back, or was picked by name, need not.
CREATE OR REPLACE FUNCTION {schema}.stand_together(p_ids bigint[]) RETURNS boolean
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT p_ids[cardinality(p_ids)] - p_ids[1] < 100 + 12 * cardinality(p_ids);
END;

-- Whether ids, in their order, have no gap: then all between the first and the last is meant.
CREATE OR REPLACE FUNCTION {schema}.are_a_row(p_ids bigint[]) RETURNS boolean
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT p_ids[cardinality(p_ids)] - p_ids[1] < cardinality(p_ids);
END;

-- Ids in their order.
CREATE OR REPLACE FUNCTION {schema}.sorted(p_ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE SET jit = off SET enable_sort = on AS $body$
BEGIN
    RETURN ARRAY (SELECT number FROM unnest(p_ids) AS number ORDER BY number);
END
$body$;

-- The places of jobs that can be claimed, one by one; none of those that are gone, or somewhere else.
-- (Stable: only such a function can say where a scan by places shall look, and is not called for each row.)
CREATE OR REPLACE FUNCTION {schema}.places(p_queue integer, p_priority smallint, p_ids bigint[]) RETURNS tid[]
LANGUAGE plpgsql STABLE SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
BEGIN
    RETURN ARRAY (
        SELECT found.place
        FROM unnest(p_ids) AS wanted (id),
            LATERAL (
                SELECT job.ctid AS place
                FROM {schema}.jobs AS job
                WHERE job.queue_id = p_queue AND job.priority = p_priority AND job.id = wanted.id
                OFFSET 0
            ) AS found
    );
END
$body$;

-- Lock jobs that nobody else has locked, one by one; gives their ids.
CREATE OR REPLACE FUNCTION {schema}.lock_idle(p_queue integer, p_priority smallint, p_ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
BEGIN
    RETURN ARRAY (
        SELECT found.id
        FROM unnest(p_ids) AS wanted (id),
            LATERAL (
                SELECT job.id
                FROM {schema}.jobs AS job
                WHERE job.queue_id = p_queue AND job.priority = p_priority AND job.id = wanted.id
                OFFSET 0
                FOR UPDATE SKIP LOCKED
            ) AS found
    );
END
$body$;

-- Note that jobs stand where others may have looked before. What is locked just now will be noted by who has it locked,
-- or found by a look from the start.
CREATE OR REPLACE FUNCTION {schema}.mark_returned(p_queue integer, p_priority smallint, p_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    idle bigint[] := {schema}.lock_idle(p_queue, p_priority, p_ids);
BEGIN
    UPDATE {schema}.jobs
    SET came_back = nextval('{schema_in_text}.returns')
    WHERE ctid = ANY ({schema}.places(p_queue, p_priority, idle));
END
$body$;

-- Take jobs, all of one priority and in the order of their ids, out of those that can be claimed.
CREATE OR REPLACE FUNCTION {schema}.take(p_queue integer, p_priority smallint, p_ids bigint[])
RETURNS SETOF {schema}.jobs
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
BEGIN
    IF {schema}.stand_together(p_ids) THEN
        RETURN QUERY
            DELETE FROM {schema}.jobs AS job
            WHERE job.queue_id = p_queue AND job.priority = p_priority
                AND job.id BETWEEN p_ids[1] AND p_ids[cardinality(p_ids)]
                AND ({schema}.are_a_row(p_ids) OR job.id IN (SELECT unnest(p_ids)))
            RETURNING job.*;
    ELSE
        RETURN QUERY
            DELETE FROM {schema}.jobs AS job
            WHERE job.ctid = ANY ({schema}.places(p_queue, p_priority, p_ids))
            RETURNING job.*;
    END IF;
END
$body$;

-- Put a job, already taken out, into the dead-letter queue where the queue has one.
CREATE OR REPLACE FUNCTION {schema}.remember_dead(p_job {schema}.jobs, p_reason text, p_error text) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
BEGIN
    INSERT INTO {schema}.dead_jobs ({job_columns}, reason, error)
    SELECT {job_columns}, p_reason, coalesce(p_error, p_job.failures -> -1 ->> 'error')
    FROM (SELECT (p_job).*) AS job
    WHERE (SELECT dead_letter_enabled FROM {schema}.queues WHERE queues.id = p_job.queue_id);
END
$body$;

-- Put a job, already taken out, into the history where the queue keeps one.
CREATE OR REPLACE FUNCTION {schema}.remember_finished(p_job {schema}.jobs, p_outcome text) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
BEGIN
    INSERT INTO {schema}.finished_jobs ({job_columns}, outcome)
    SELECT {job_columns}, p_outcome
    FROM (SELECT (p_job).*) AS job
    WHERE (SELECT completed_retention_seconds > 0 FROM {schema}.queues WHERE queues.id = p_job.queue_id);
END
$body$;

-- Park a job, already taken out.
CREATE OR REPLACE FUNCTION {schema}.park(p_job {schema}.jobs, p_state {schema}.parked_state) RETURNS void
LANGUAGE plpgsql SET jit = off AS $body$
BEGIN
    INSERT INTO {schema}.parked_jobs ({job_columns}, state)
    SELECT {job_columns}, p_state
    FROM (SELECT (p_job).*) AS job;
END
$body$;
