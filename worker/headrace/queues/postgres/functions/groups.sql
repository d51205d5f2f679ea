-- Groups: of each, at most one job can be claimed, or is held, or waits for its time: its head.
--
-- Who waits for whom. A transaction takes locks in the order of this table, and waits for nothing that stands above what
-- it has. "Skips" means that it goes on without.
--
--   | lock                      | who takes it                                   | who waits for it       | who skips it
--   |---------------------------|------------------------------------------------|------------------------|--------------
--   | deduplication key (row)   | put, redrive, in the order of keys             | put, redrive, whoever  | prune_keys
--   |                           |                                                | ends a job with a key  |
--   | lease (row)               | claim, settling: KEY SHARE;                    | end_leases; settling   | rescue
--   |                           | end_leases, rescue: UPDATE                     |                        |
--   | claim (row), by its id    | settling, end_leases, drop_claims, rescue      | settling, end_leases   |
--   | places of groups          | cancel, make_due: before any job's row;        | settling, cancel,      | promote, expire,
--   | (advisory), all at once,  | settling, rescue: after it                     | make_due               | sweeps, rescue,
--   | by their numbers          |                                                |                        | cancellations
--   | job (row of jobs)         | claim, settling, complete_in_transaction,      | settling its own       | claim, rescue,
--   |                           | and who takes an idle job                      |                        | who takes an idle job
--   | parked job (row)          | under its group's place, or skipped; a job     |                        | promote, expire,
--   |                           | without a group: promote, expire, cancel       |                        | claim_suspect
--   | count, totals (row)       | count_and_share, add_totals                    | nobody                 | both
--   | watch (row)               | keep_watch, claim (a look from the start),     | judged_until           | all but
--   |                           | sweep_groups, judged_until                     |                        | judged_until
--
-- An application's open transaction that has completed a job holds that job's row and its key, nothing else; one that has
-- enqueued holds keys, and new rows that nobody sees.

-- Workers that settle or admit jobs of one group do so one after the other. Hashed into 256 places a queue, locked in one
-- order: few locks, no deadlock, so long as a transaction asks for all that it needs at once.
CREATE OR REPLACE FUNCTION {schema}.group_places(p_groups text[]) RETURNS integer[]
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT ARRAY (SELECT hashtext(groups.name) & 255 FROM unnest(p_groups) AS groups (name));
END;

CREATE OR REPLACE FUNCTION {schema}.group_lock(p_queue integer, p_place integer) RETURNS bigint
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT hashtextextended('headrace.dev/groups/' || {schema_literal}, p_queue::bigint * 256 + p_place);
END;

CREATE OR REPLACE FUNCTION {schema}.lock_groups(p_queue integer, p_groups text[]) RETURNS void
LANGUAGE plpgsql SET jit = off AS $body$
DECLARE
    places integer[] := {schema}.group_places(p_groups);
BEGIN
    -- A series comes in its order: nothing needs to be sorted.
    PERFORM pg_advisory_xact_lock({schema}.group_lock(p_queue, place))
    FROM generate_series(0, 255) AS place
    WHERE place = ANY (places);
END
$body$;

-- The same without waiting; gives the groups that are locked now. What is left out is dealt with by who has it locked, or
-- by the next who asks.
CREATE OR REPLACE FUNCTION {schema}.try_lock_groups(p_queue integer, p_groups text[]) RETURNS text[]
LANGUAGE plpgsql SET jit = off AS $body$
DECLARE
    places integer[] := {schema}.group_places(p_groups);
    locked integer[];
BEGIN
    locked := ARRAY (
        SELECT place
        FROM generate_series(0, 255) AS place
        WHERE CASE WHEN place = ANY (places) THEN pg_try_advisory_xact_lock({schema}.group_lock(p_queue, place)) END
    );
    RETURN ARRAY (
        SELECT groups.name FROM unnest(p_groups) AS groups (name) WHERE hashtext(groups.name) & 255 = ANY (locked));
END
$body$;

-- Let the next job of each of these groups become its head, where the group has none. Call it under lock_groups.
CREATE OR REPLACE FUNCTION {schema}.advance_groups(p_queue integer, p_groups text[]) RETURNS integer
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $body$
DECLARE
    heads tid[];
BEGIN
    heads := ARRAY (
        SELECT head.place
        FROM unnest(p_groups) AS groups (name),
            LATERAL (
                SELECT job.ctid AS place
                FROM {schema}.parked_jobs AS job
                WHERE job.queue_id = p_queue AND job.group_key = groups.name AND job.state IN ('arrived', 'behind')
                ORDER BY job.id
                LIMIT 1
            ) AS head
        WHERE NOT EXISTS (
                SELECT FROM {schema}.jobs AS job WHERE job.queue_id = p_queue AND job.group_key = groups.name)
            AND NOT EXISTS (
                SELECT FROM {schema}.parked_jobs AS job
                WHERE job.queue_id = p_queue AND job.group_key = groups.name AND job.state IN ('delayed', 'suspect'))
    );
    IF heads = '{}' THEN
        RETURN 0;
    END IF;
    UPDATE {schema}.parked_jobs SET state = 'delayed' WHERE ctid = ANY (heads) AND run_at > now();
    -- Those that were updated have another place by now.
    RETURN {schema}.unpark(heads);
END
$body$;

-- What follows from jobs that have left the queue for good: their groups advance, their keys are free (not so a key that
-- another job has by now). Call it once for all that a transaction ends, with the ids.
CREATE OR REPLACE FUNCTION {schema}.free_group_and_key(p_queue integer, p_groups text[], p_keys text[],
    p_ids bigint[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    places tid[];
BEGIN
    IF p_groups <> '{}' THEN
        PERFORM {schema}.lock_groups(p_queue, p_groups);
        PERFORM {schema}.advance_groups(p_queue, p_groups);
    END IF;
    IF p_keys <> '{}' THEN
        places := ARRAY (
            SELECT taken.place
            FROM unnest(p_keys) AS keys (name),
                LATERAL (
                    SELECT job_id, ctid AS place
                    FROM {schema}.deduplication_keys
                    WHERE queue_id = p_queue AND key = keys.name
                    OFFSET 0
                    FOR UPDATE
                ) AS taken
            WHERE p_ids IS NULL OR taken.job_id = ANY (p_ids)
        );
        DELETE FROM {schema}.deduplication_keys
        WHERE ctid = ANY (places) AND (kept_until IS NULL OR kept_until <= now());
        UPDATE {schema}.deduplication_keys SET finished = true WHERE ctid = ANY (places);
    END IF;
END
$body$;

-- Let groups go on whose heads were among these jobs, completed in a transaction of their handler's own, and whose worker
-- can't say so any more. Waits for nobody: what is locked just now, sweep_groups() finds.
CREATE OR REPLACE FUNCTION {schema}.advance_completed(p_queue integer, p_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
DECLARE
    groups text[];
BEGIN
    IF NOT EXISTS (SELECT FROM {schema}.completed_heads WHERE queue_id = p_queue) THEN
        RETURN;
    END IF;
    groups := ARRAY (
        SELECT DISTINCT group_key
        FROM {schema}.completed_heads
        WHERE queue_id = p_queue AND (job_id IN (SELECT unnest(p_ids))) IS TRUE);
    IF groups <> '{}' THEN
        groups := {schema}.try_lock_groups(p_queue, groups);
        PERFORM {schema}.advance_groups(p_queue, groups);
        DELETE FROM {schema}.completed_heads
        WHERE queue_id = p_queue AND (job_id IN (SELECT unnest(p_ids))) IS TRUE AND group_key = ANY (groups);
    END IF;
END
$body$;

-- The groups of jobs, wherever they stand.
CREATE OR REPLACE FUNCTION {schema}.groups_of(p_queue integer, p_ids bigint[]) RETURNS text[]
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
BEGIN
    RETURN ARRAY (
        SELECT DISTINCT job.group_key
        FROM unnest(p_ids) AS wanted (id),
            LATERAL (
                SELECT parked.group_key
                FROM {schema}.parked_jobs AS parked
                WHERE parked.queue_id = p_queue AND parked.id = wanted.id
                UNION ALL
                SELECT found.group_key
                FROM generate_series(0, 10) AS level (priority),
                    LATERAL (
                        SELECT ready.group_key
                        FROM {schema}.jobs AS ready
                        WHERE ready.queue_id = p_queue AND ready.priority = level.priority::smallint
                            AND ready.id = wanted.id
                        OFFSET 0
                    ) AS found
            ) AS job
        WHERE job.group_key IS NOT NULL
    );
END
$body$;

-- Look at every group that waits without a head, whatever the cause: once a minute a queue, whoever asks. Waits for
-- nobody. It needs no word of who completed the head in a transaction, so what nobody will let go on any more is dropped.
CREATE OR REPLACE FUNCTION {schema}.sweep_groups(p_queue integer) RETURNS integer
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $body$
DECLARE
    held bigint[];
    groups text[];
BEGIN
    UPDATE {schema}.watches
    SET swept_at = now()
    WHERE queue_id IN (
        SELECT queue_id
        FROM {schema}.watches
        WHERE queue_id = p_queue AND (swept_at <= now() - interval '1 minute' OR swept_at > now() + interval '5 seconds')
        FOR UPDATE SKIP LOCKED
    );
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    held := ARRAY (SELECT unnest(claim.job_ids) FROM {schema}.claims AS claim WHERE claim.queue_id = p_queue);
    DELETE FROM {schema}.completed_heads
    WHERE ctid = ANY (ARRAY (
        SELECT head.ctid
        FROM {schema}.completed_heads AS head
        WHERE head.queue_id = p_queue AND head.job_id NOT IN (SELECT unnest(held))
        FOR UPDATE SKIP LOCKED
    ));
    groups := ARRAY (
        WITH RECURSIVE waiting (name) AS (
            (SELECT group_key FROM {schema}.parked_jobs
                WHERE queue_id = p_queue AND state IN ('arrived', 'behind') ORDER BY group_key LIMIT 1)
            UNION ALL
            SELECT (SELECT group_key FROM {schema}.parked_jobs
                WHERE queue_id = p_queue AND state IN ('arrived', 'behind') AND group_key > waiting.name
                ORDER BY group_key LIMIT 1)
            FROM waiting
            WHERE waiting.name IS NOT NULL
        )
        SELECT waiting.name
        FROM waiting
        WHERE waiting.name IS NOT NULL
            AND NOT EXISTS (
                SELECT FROM {schema}.jobs AS job WHERE job.queue_id = p_queue AND job.group_key = waiting.name)
            AND NOT EXISTS (
                SELECT FROM {schema}.parked_jobs AS job
                WHERE job.queue_id = p_queue AND job.group_key = waiting.name AND job.state IN ('delayed', 'suspect'))
    );
    IF groups = '{}' THEN
        RETURN 0;
    END IF;
    RETURN {schema}.advance_groups(p_queue, {schema}.try_lock_groups(p_queue, groups));
END
$body$;
