-- Settling: what becomes of jobs that somebody holds. Each function takes any number of them, and gives the ids of those
-- that were still held; of the others nothing has changed.

-- Take jobs out of the claims of a lease; gives those that were in them, in the order of their ids. The fence: what
-- stands in no claim of a lease that exists, and is not judged, belongs to somebody else, or is settled already.
CREATE OR REPLACE FUNCTION {schema}.unclaim(p_lease bigint, p_claims bigint[], p_ids bigint[])
RETURNS TABLE (queue_id integer, priority smallint, job_ids bigint[])
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
#variable_conflict use_column
DECLARE
    held {schema}.claims;
    mine bigint[];
BEGIN
    IF NOT {schema}.hold_lease(p_lease) THEN
        RETURN;
    END IF;
    FOR held IN
        -- By the ids alone: a lease may have had very many claims before.
        SELECT * FROM {schema}.claims WHERE id = ANY (p_claims) AND lease_id + 0 = p_lease ORDER BY id FOR UPDATE
    LOOP
        mine := ARRAY (
            SELECT number FROM unnest(held.job_ids) AS number WHERE (number IN (SELECT unnest(p_ids))) IS TRUE
        );
        CONTINUE WHEN mine = '{}';
        IF cardinality(mine) = cardinality(held.job_ids) THEN
            DELETE FROM {schema}.claims WHERE id = held.id;
        ELSE
            UPDATE {schema}.claims
            SET job_ids = ARRAY (
                SELECT number FROM unnest(held.job_ids) AS number WHERE number NOT IN (SELECT unnest(p_ids))
            )
            WHERE id = held.id;
        END IF;
        queue_id := held.queue_id;
        priority := held.priority;
        job_ids := mine;
        RETURN NEXT;
    END LOOP;
END
$body$;

-- The jobs are done and gone.
CREATE OR REPLACE FUNCTION {schema}.complete(p_lease bigint, p_claims bigint[], p_ids bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_bitmapscan = off AS $body$
#variable_conflict use_column
DECLARE
    mine record;
    done bigint[];
    groups text[];
    keys text[];
    of_queue integer;
    all_done bigint[];
    all_groups text[];
    all_keys text[];
BEGIN
    FOR mine IN SELECT * FROM {schema}.unclaim(p_lease, p_claims, p_ids) LOOP
        IF (SELECT completed_retention_seconds > 0 FROM {schema}.queues WHERE id = mine.queue_id) THEN
            INSERT INTO {schema}.finished_jobs ({job_columns}, outcome)
            SELECT {job_columns}, 'completed'
            FROM {schema}.jobs
            WHERE ctid = ANY ({schema}.places(mine.queue_id, mine.priority, mine.job_ids));
        END IF;
        IF {schema}.stand_together(mine.job_ids) THEN
            WITH gone AS (
                DELETE FROM {schema}.jobs
                WHERE queue_id = mine.queue_id AND priority = mine.priority
                    AND id BETWEEN mine.job_ids[1] AND mine.job_ids[cardinality(mine.job_ids)]
                    AND ({schema}.are_a_row(mine.job_ids) OR id IN (SELECT unnest(mine.job_ids)))
                RETURNING id, group_key, deduplication_key
            )
            SELECT array_agg(id), array_agg(group_key) FILTER (WHERE group_key IS NOT NULL),
                array_agg(deduplication_key) FILTER (WHERE deduplication_key IS NOT NULL)
            INTO done, groups, keys
            FROM gone;
        ELSE
            SELECT array_agg(gone.id), array_agg(gone.group_key) FILTER (WHERE gone.group_key IS NOT NULL),
                array_agg(gone.deduplication_key) FILTER (WHERE gone.deduplication_key IS NOT NULL)
            INTO done, groups, keys
            FROM {schema}.take(mine.queue_id, mine.priority, mine.job_ids) AS gone;
        END IF;
        IF groups IS NOT NULL OR keys IS NOT NULL THEN
            of_queue := mine.queue_id;
            all_done := all_done || done;
            all_groups := all_groups || groups;
            all_keys := all_keys || keys;
        END IF;
        RETURN QUERY SELECT unnest(done);
    END LOOP;
    IF all_done IS NOT NULL THEN
        PERFORM {schema}.free_group_and_key(of_queue, all_groups, all_keys, all_done);
    END IF;
END
$body$;

-- Take jobs that are still held out of the queue, to put them elsewhere.
CREATE OR REPLACE FUNCTION {schema}.take_held(p_lease bigint, p_claims bigint[], p_ids bigint[])
RETURNS SETOF {schema}.jobs
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    mine record;
BEGIN
    FOR mine IN SELECT * FROM {schema}.unclaim(p_lease, p_claims, p_ids) LOOP
        RETURN QUERY SELECT * FROM {schema}.take(mine.queue_id, mine.priority, mine.job_ids);
    END LOOP;
END
$body$;

-- Hand jobs back with nothing charged, each after its delay. Without one a job keeps its row, and so its place; a suspect
-- stays one.
CREATE OR REPLACE FUNCTION {schema}.release(p_lease bigint, p_claims bigint[], p_ids bigint[],
    p_delays double precision[])
RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
#variable_conflict use_column
DECLARE
    mine record;
    job {schema}.jobs;
    delay_seconds double precision;
    staying bigint[];
    of_queue integer;
BEGIN
    FOR mine IN SELECT * FROM {schema}.unclaim(p_lease, p_claims, p_ids) LOOP
        staying := ARRAY (
            SELECT job.id
            FROM {schema}.jobs AS job
            WHERE job.ctid = ANY ({schema}.places(mine.queue_id, mine.priority, mine.job_ids)) AND NOT job.suspect
                AND (job.id IN (
                    SELECT asked.id FROM unnest(p_ids, p_delays) AS asked (id, delay) WHERE NOT asked.delay > 0)) IS TRUE
        );
        IF staying <> '{}' THEN
            PERFORM {schema}.mark_returned(mine.queue_id, mine.priority, staying);
            of_queue := mine.queue_id;
        END IF;
        FOR job IN
            SELECT *
            FROM {schema}.take(mine.queue_id, mine.priority, ARRAY (
                SELECT number FROM unnest(mine.job_ids) AS number WHERE number NOT IN (SELECT unnest(staying))))
        LOOP
            delay_seconds := p_delays[array_position(p_ids, job.id)];
            IF delay_seconds > 0 THEN
                job.run_at := now() + delay_seconds * interval '1 second';
            END IF;
            PERFORM {schema}.park(job, CASE WHEN job.suspect THEN 'suspect' ELSE 'delayed' END::{schema}.parked_state);
        END LOOP;
        RETURN QUERY SELECT unnest(mine.job_ids);
    END LOOP;
    -- Whoever hands back may take nothing any more.
    IF of_queue IS NOT NULL THEN
        PERFORM {schema}.wake(of_queue, true);
    END IF;
END
$body$;

-- The attempts failed: again after their delays, or to the dead-letter queue where no attempt is left. Without a delay a
-- job comes back at once, and is not parked before. A failure is {"error", "error_type", "fingerprint", "traceback"},
-- without what there is not.
CREATE OR REPLACE FUNCTION {schema}.retry(p_lease bigint, p_claims bigint[], p_ids bigint[], p_delays double precision[],
    p_failures jsonb[])
RETURNS TABLE (id bigint, is_dead boolean)
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
#variable_conflict use_column
DECLARE
    queue {schema}.queues;
    ids bigint[];
    are_dead boolean[];
    dead_ids bigint[];
    dead_groups text[];
    dead_keys text[];
    come_back boolean;
BEGIN
    SELECT found.* INTO queue
    FROM {schema}.queues AS found
    WHERE found.id = (SELECT lease.queue_id FROM {schema}.leases AS lease WHERE lease.id = p_lease);
    WITH job AS MATERIALIZED (
        SELECT failed.*, asked.delay_seconds > 0 AS waits, failed.attempt > queue.max_retries AS is_dead,
            asked.failure ->> 'error' AS error
        FROM {schema}.take_held(p_lease, p_claims, p_ids) AS held
            JOIN unnest(p_ids, p_delays, p_failures) AS asked (id, delay_seconds, failure) ON asked.id = held.id,
            LATERAL {schema}.failed(held, asked.failure, asked.delay_seconds) AS failed
    ), back AS (
        INSERT INTO {schema}.jobs ({job_columns}, came_back)
        SELECT {job_columns}, nextval('{schema_in_text}.returns')
        FROM job
        WHERE NOT is_dead AND NOT waits
    ), parked AS (
        INSERT INTO {schema}.parked_jobs ({job_columns}, state)
        SELECT {job_columns}, 'delayed'
        FROM job
        WHERE NOT is_dead AND waits
    ), dead AS (
        INSERT INTO {schema}.dead_jobs ({job_columns}, reason, error)
        SELECT {job_columns}, 'RetriesExhausted', coalesce(error, failures -> -1 ->> 'error')
        FROM job
        WHERE is_dead AND queue.dead_letter_enabled
    )
    SELECT array_agg(id), array_agg(is_dead), array_agg(id) FILTER (WHERE is_dead),
        array_agg(group_key) FILTER (WHERE is_dead AND group_key IS NOT NULL),
        array_agg(deduplication_key) FILTER (WHERE is_dead AND deduplication_key IS NOT NULL),
        bool_or(NOT is_dead AND NOT waits)
    INTO ids, are_dead, dead_ids, dead_groups, dead_keys, come_back
    FROM job;
    IF dead_ids IS NOT NULL THEN
        PERFORM {schema}.free_group_and_key(queue.id, dead_groups, dead_keys, dead_ids);
    END IF;
    IF come_back THEN
        PERFORM {schema}.wake(queue.id, true);
    END IF;
    RETURN QUERY SELECT unnest(ids), unnest(are_dead);
END
$body$;

-- Give jobs up, each for its reason; a failure may be null.
CREATE OR REPLACE FUNCTION {schema}.dead_letter(p_lease bigint, p_claims bigint[], p_ids bigint[], p_reasons text[],
    p_failures jsonb[])
RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    job {schema}.jobs;
    of_queue integer;
    place integer;
    ids bigint[] := '{}';
    groups text[] := '{}';
    keys text[] := '{}';
BEGIN
    FOR job IN SELECT * FROM {schema}.take_held(p_lease, p_claims, p_ids) LOOP
        of_queue := job.queue_id;
        place := array_position(p_ids, job.id);
        PERFORM {schema}.remember_dead({schema}.failed(job, p_failures[place]), p_reasons[place],
            p_failures[place] ->> 'error');
        ids := ids || job.id;
        groups := array_remove(groups || job.group_key, NULL);
        keys := array_remove(keys || job.deduplication_key, NULL);
        RETURN NEXT job.id;
    END LOOP;
    IF ids <> '{}' THEN
        PERFORM {schema}.free_group_and_key(of_queue, groups, keys, ids);
    END IF;
END
$body$;

-- Cancelled jobs have stopped: they are gone.
CREATE OR REPLACE FUNCTION {schema}.discard(p_lease bigint, p_claims bigint[], p_ids bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    job {schema}.jobs;
    gone {schema}.jobs[] := '{}';
    of_queue integer;
BEGIN
    FOR job IN SELECT * FROM {schema}.take_held(p_lease, p_claims, p_ids) LOOP
        of_queue := job.queue_id;
        PERFORM {schema}.remember_finished(job, 'cancelled');
        job.payload := '';
        gone := gone || job;
        RETURN NEXT job.id;
    END LOOP;
    PERFORM {schema}.end_cancelled(of_queue, gone);
END
$body$;

-- What follows from cancelled jobs that are gone. Call it once for all that a transaction ends.
CREATE OR REPLACE FUNCTION {schema}.end_cancelled(p_queue integer, p_jobs {schema}.jobs[]) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    ids bigint[] := ARRAY (SELECT job.id FROM unnest(p_jobs) AS job);
BEGIN
    IF ids = '{}' THEN
        RETURN;
    END IF;
    DELETE FROM {schema}.cancellations WHERE queue_id = p_queue AND job_id = ANY (ids);
    PERFORM {schema}.free_group_and_key(p_queue,
        ARRAY (SELECT DISTINCT job.group_key FROM unnest(p_jobs) AS job WHERE job.group_key IS NOT NULL),
        ARRAY (SELECT job.deduplication_key FROM unnest(p_jobs) AS job WHERE job.deduplication_key IS NOT NULL), ids);
    PERFORM {schema}.add_totals(p_queue, p_cancelled => cardinality(ids));
END
$body$;

-- Complete a job within the transaction of its handler's own: both happen, or neither. Raises JQ001 where the job is not
-- held under this lease any more.
--
-- That transaction may stay open for long, so nothing is locked here that others wait for: neither the lease nor the
-- claim nor the group, only the job's row (and its deduplication key). Everybody else skips a locked row or works
-- around it, and who has deleted it decides what becomes of the job. acknowledge_completed() does the rest, afterwards.
CREATE OR REPLACE FUNCTION {schema}.complete_in_transaction(p_lease bigint, p_claim bigint, p_id bigint) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    held {schema}.claims;
    job {schema}.jobs;
BEGIN
    SELECT * INTO held FROM {schema}.claims WHERE id = p_claim AND lease_id = p_lease AND p_id = ANY (job_ids);
    DELETE FROM {schema}.jobs AS done
    WHERE done.queue_id = held.queue_id AND done.priority = held.priority AND done.id = p_id
    RETURNING done.* INTO job;
    -- The row is locked, and only now the claim has the last word: whoever lets go of it from here on finds the row taken.
    IF job.id IS NULL
        OR NOT EXISTS (SELECT FROM {schema}.claims WHERE id = p_claim AND lease_id = p_lease AND p_id = ANY (job_ids))
        OR NOT EXISTS (SELECT FROM {schema}.leases WHERE id = p_lease AND was_alone IS NULL)
    THEN
        RAISE EXCEPTION 'the lease on job % is lost', p_id
            USING ERRCODE = 'JQ001', HINT = 'Roll back: somebody else has the job, or it is settled.';
    END IF;
    PERFORM {schema}.remember_finished(job, 'completed');
    IF job.deduplication_key IS NOT NULL THEN
        PERFORM {schema}.free_group_and_key(job.queue_id, NULL, ARRAY [job.deduplication_key], ARRAY [job.id]);
    END IF;
    IF job.group_key IS NOT NULL THEN
        INSERT INTO {schema}.completed_heads (queue_id, job_id, group_key) VALUES (job.queue_id, job.id, job.group_key);
    END IF;
END
$body$;

-- Of jobs completed in transactions: let go of those whose transaction was not rolled back, and let their groups
-- advance. Where one is still open (its handler should have ended it), it decides by itself: nobody can claim the job
-- before. Those that were rolled back stay held.
CREATE OR REPLACE FUNCTION {schema}.acknowledge_completed(p_queue integer, p_lease bigint, p_claims bigint[],
    p_ids bigint[], p_groups text[])
RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    rolled_back bigint[];
    done bigint[];
BEGIN
    rolled_back := ARRAY (
        SELECT found.id
        FROM unnest(p_ids) AS number,
            generate_series(0, 10) AS level (priority),
            LATERAL (
                SELECT job.id
                FROM {schema}.jobs AS job
                WHERE job.queue_id = p_queue AND job.priority = level.priority::smallint AND job.id = number
                OFFSET 0
                FOR UPDATE SKIP LOCKED
            ) AS found
    );
    done := ARRAY (
        SELECT unnest(mine.job_ids)
        FROM {schema}.unclaim(p_lease, p_claims,
            ARRAY (SELECT number FROM unnest(p_ids) AS number WHERE number <> ALL (rolled_back))) AS mine);
    IF p_groups <> '{}' THEN
        PERFORM {schema}.free_group_and_key(p_queue, p_groups, NULL);
        DELETE FROM {schema}.completed_heads WHERE queue_id = p_queue AND job_id = ANY (done);
    END IF;
    RETURN QUERY SELECT unnest(done);
END
$body$;

-- How far jobs are, by claim; nothing of claims that are not held any more, and those before are forgotten.
CREATE OR REPLACE FUNCTION {schema}.report_progress(p_leases bigint[], p_claims bigint[], p_told jsonb[]) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
BEGIN
    INSERT INTO {schema}.progress AS known (lease_id, claim_id, told)
    SELECT claim.lease_id, claim.id, news.told
    FROM unnest(p_leases, p_claims, p_told) AS news (lease_id, claim_id, told)
        JOIN {schema}.claims AS claim ON claim.id = news.claim_id AND claim.lease_id = news.lease_id
    ORDER BY claim.lease_id, claim.id
    ON CONFLICT (lease_id, claim_id) DO UPDATE SET told = known.told || excluded.told;
    DELETE FROM {schema}.progress AS known
    WHERE known.lease_id = ANY (p_leases)
        AND NOT EXISTS (SELECT FROM {schema}.claims AS claim WHERE claim.id = known.claim_id);
END
$body$;
