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
    WHERE (place IN (SELECT unnest(places))) IS TRUE;
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
        WHERE CASE WHEN (place IN (SELECT unnest(places))) IS TRUE
            THEN pg_try_advisory_xact_lock({schema}.group_lock(p_queue, place)) END
    );
    RETURN ARRAY (
        SELECT groups.name
        FROM unnest(p_groups) AS groups (name)
        WHERE (hashtext(groups.name) & 255 IN (SELECT unnest(locked))) IS TRUE);
END
$body$;

-- The groups that have a head, and which. It is looked for by its id alone: by a group's key one would pass all of the
-- group's jobs that are done, for as long as somebody's old transaction keeps them.
-- (No EXISTS: that might be made a hash of all jobs.) Who asks for one group's head looks for its row from behind, by
-- >=, <= and ORDER BY group_key DESC: the newest version stands last, and those before it are not passed. Not in a
-- function: a call of one costs ten times what the look does.
CREATE OR REPLACE VIEW {schema}.group_heads AS
    SELECT known.queue_id, known.group_key, known.head_id
    FROM {schema}.groups AS known
    WHERE (SELECT job.id
            FROM {schema}.jobs AS job
            WHERE job.queue_id = known.queue_id AND job.priority = known.head_priority AND job.id = known.head_id
            LIMIT 1) IS NOT NULL
        OR (SELECT job.id
            FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = known.queue_id AND job.id = known.head_id AND job.state IN ('delayed', 'suspect')
            LIMIT 1) IS NOT NULL;
COMMENT ON VIEW {schema}.group_heads IS 'The groups that have a head: the one of their jobs that can be claimed, is held, or waits for its time.';

-- Let the next job of each of these groups become its head, where the group has none. Call it under lock_groups.
--
-- p_first has, by group, the lowest id among those that have come, perhaps late; null where none has. p_gone has jobs that
-- this transaction has ended.
CREATE OR REPLACE FUNCTION {schema}.advance_groups(p_queue integer, p_groups text[], p_first bigint[] DEFAULT NULL,
    p_gone bigint[] DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $body$
DECLARE
    names text[];
    rows tid[];
    heads tid[];
    ids bigint[];
    levels smallint[];
    late tid[];
    late_ids bigint[];
BEGIN
    SELECT array_agg(one.name) FILTER (WHERE one.is_next), array_agg(one.place) FILTER (WHERE one.is_next),
        array_agg(one.next_place) FILTER (WHERE one.is_next), array_agg(one.waiting_id) FILTER (WHERE one.is_next),
        array_agg(one.priority) FILTER (WHERE one.is_next), array_agg(one.place) FILTER (WHERE one.is_late),
        array_agg(one.first) FILTER (WHERE one.is_late)
    INTO names, rows, heads, ids, levels, late, late_ids
    FROM (
        SELECT *, looked.waiting_id IS NOT NULL AND NOT looked.has_head AS is_next,
            looked.has_head AND looked.first < looked.next_id AS is_late
        FROM (
            SELECT asked.name, asked.first, known.place, known.next_id, next.place AS next_place, next.id AS waiting_id,
                next.priority,
                -- Where none waits, nobody asks.
                CASE WHEN known.place IS NULL OR next.id IS NULL OR (known.head_id IN (SELECT unnest(p_gone))) IS TRUE THEN false
                ELSE
                    (SELECT job.id
                        FROM {schema}.jobs AS job
                        WHERE job.queue_id = p_queue AND job.priority = known.head_priority AND job.id = known.head_id
                        LIMIT 1) IS NOT NULL
                    OR (SELECT job.id
                        FROM {schema}.parked_jobs AS job
                        WHERE job.queue_id = p_queue AND job.id = known.head_id AND job.state IN ('delayed', 'suspect')
                        LIMIT 1) IS NOT NULL
                END AS has_head
            FROM (
                SELECT groups.name, min(groups.first) AS first
                FROM unnest(p_groups, p_first) AS groups (name, first)
                GROUP BY groups.name
            ) AS asked
                LEFT JOIN LATERAL (
                    SELECT row.ctid AS place, row.head_id, row.head_priority, row.next_id
                    FROM {schema}.groups AS row
                    WHERE row.queue_id = p_queue AND row.group_key >= asked.name AND row.group_key <= asked.name
                    ORDER BY row.group_key DESC
                    LIMIT 1
                ) AS known ON true
                LEFT JOIN LATERAL (
                    SELECT job.ctid AS place, job.id, job.priority
                    FROM {schema}.parked_jobs AS job
                    WHERE job.queue_id = p_queue AND job.group_key = asked.name AND job.state IN ('arrived', 'behind')
                        AND job.id >= least(coalesce(known.next_id, 0), asked.first)
                    ORDER BY job.id
                    LIMIT 1
                ) AS next ON true
            OFFSET 0
        ) AS looked
    ) AS one;
    IF late IS NOT NULL THEN
        UPDATE {schema}.groups AS known
        SET next_id = news.id
        FROM unnest(late, late_ids) AS news (place, id)
        WHERE known.ctid = news.place;
    END IF;
    IF heads IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE {schema}.groups AS known
    SET head_id = news.id, head_priority = news.priority, next_id = news.id + 1
    FROM unnest(rows, ids, levels) AS news (place, id, priority)
    WHERE known.ctid = news.place;
    INSERT INTO {schema}.groups (queue_id, head_id, next_id, head_priority, group_key)
    SELECT p_queue, news.id, news.id + 1, news.priority, news.name
    FROM unnest(rows, ids, levels, names) AS news (place, id, priority, name)
    WHERE news.place IS NULL;
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
        PERFORM {schema}.advance_groups(p_queue, p_groups, p_gone => p_ids);
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
            WHERE p_ids IS NULL OR (taken.job_id IN (SELECT unnest(p_ids))) IS TRUE
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

-- Whether groups are to be looked at, where that has been done up to a group, or to the end ('').
CREATE OR REPLACE FUNCTION {schema}.is_sweep_due(p_swept_at timestamptz, p_swept_to text) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT p_swept_at NOT BETWEEN now() - CASE WHEN p_swept_to = '' THEN interval '1 minute' ELSE interval '2 seconds' END
        AND now() + interval '5 seconds';
END;

-- Look at every group that waits without a head, whatever the cause: once a minute a queue, whoever asks, and of very many
-- groups ten thousand at a time. Waits for nobody. It needs no word of who completed the head in a transaction, so what
-- nobody will let go on any more is dropped; and so are the rows of groups that have nothing left.
CREATE OR REPLACE FUNCTION {schema}.sweep_groups(p_queue integer) RETURNS integer
LANGUAGE plpgsql SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_sort = off AS $body$
DECLARE
    most CONSTANT integer := 10000;
    passed text;
    up_to text;
    held bigint[];
    waiting text[];
    known text[];
    places tid[];
    next_ids bigint[];
    locked text[];
    advanced integer;
BEGIN
    SELECT swept_to INTO passed
    FROM {schema}.watches
    WHERE queue_id = p_queue AND {schema}.is_sweep_due(swept_at, swept_to)
    FOR NO KEY UPDATE SKIP LOCKED;
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
    waiting := ARRAY (
        WITH RECURSIVE waiting (name) AS (
            (SELECT group_key FROM {schema}.parked_jobs
                WHERE queue_id = p_queue AND state IN ('arrived', 'behind') AND group_key > passed
                ORDER BY group_key LIMIT 1)
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
        LIMIT most
    );
    SELECT array_agg(few.group_key), array_agg(few.place), array_agg(few.next_id)
    INTO known, places, next_ids
    FROM (
        SELECT group_key, ctid AS place, next_id
        FROM {schema}.groups
        WHERE queue_id = p_queue AND group_key > passed
        ORDER BY group_key
        LIMIT most
    ) AS few;
    -- So far both have come.
    up_to := least(waiting[most], known[most]);
    UPDATE {schema}.watches SET swept_at = now(), swept_to = coalesce(up_to, '') WHERE queue_id = p_queue;
    waiting := ARRAY (
        SELECT name
        FROM unnest(waiting) AS name
        WHERE (up_to IS NULL OR name <= up_to)
            AND (SELECT head.head_id
                FROM {schema}.group_heads AS head
                WHERE head.queue_id = p_queue AND head.group_key >= name AND head.group_key <= name
                ORDER BY head.group_key DESC
                LIMIT 1) IS NULL
    );
    waiting := {schema}.try_lock_groups(p_queue, waiting);
    -- From the very first on.
    advanced := {schema}.advance_groups(p_queue, waiting, array_fill(0::bigint, ARRAY [cardinality(waiting)]));
    SELECT array_agg(few.name), array_agg(few.place)
    INTO known, places
    FROM unnest(known, places, next_ids) AS few (name, place, next_id)
    WHERE (up_to IS NULL OR few.name <= up_to)
        AND (SELECT head.head_id
            FROM {schema}.group_heads AS head
            WHERE head.queue_id = p_queue AND head.group_key >= few.name AND head.group_key <= few.name
            ORDER BY head.group_key DESC
            LIMIT 1) IS NULL
        AND (SELECT job.id
            FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = p_queue AND job.group_key = few.name AND job.state IN ('arrived', 'behind')
                AND job.id >= few.next_id
            LIMIT 1) IS NULL;
    IF places IS NOT NULL THEN
        -- A row whose group has another head by now has another place.
        locked := {schema}.try_lock_groups(p_queue, known);
        DELETE FROM {schema}.groups WHERE ctid = ANY (places) AND (group_key IN (SELECT unnest(locked))) IS TRUE;
    END IF;
    RETURN advanced;
END
$body$;
