-- Claiming: what can start moves out of the parked jobs, and is leased.

-- Move what can be claimed now out of the parked jobs: delayed jobs that are due, and heads of groups among the arrivals.
-- Waits for nobody. Only what became due, or arrived, since a time (a queue's whole history of dead rows may stand before).
CREATE OR REPLACE FUNCTION {schema}.promote(p_queue integer, p_limit integer, p_since timestamptz DEFAULT '-infinity')
RETURNS integer
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    most_bytes CONSTANT bigint := 4 * 1024 * 1024;
    due tid[];
    arrivals bigint[];
    places tid[];
    groups text[];
    moved integer := 0;
BEGIN
    -- Moving a job writes its payload again; one at least.
    due := ARRAY (
        SELECT few.place
        FROM (
            SELECT job.ctid AS place, sum(octet_length(job.payload)) OVER (ROWS UNBOUNDED PRECEDING) AS bytes,
                row_number() OVER (ROWS UNBOUNDED PRECEDING) AS number
            FROM (
                SELECT ctid, payload
                FROM {schema}.parked_jobs
                WHERE queue_id = p_queue AND state = 'delayed' AND run_at <= now() AND run_at >= p_since
                ORDER BY run_at
                LIMIT p_limit
                FOR UPDATE SKIP LOCKED
            ) AS job
        ) AS few
        WHERE few.bytes <= most_bytes OR few.number = 1
    );
    IF due <> '{}' THEN
        moved := {schema}.unpark(due);
    END IF;
    SELECT array_agg(job.id), array_agg(job.place), array_agg(job.group_key)
    INTO arrivals, places, groups
    FROM (
        SELECT id, ctid AS place, group_key
        FROM {schema}.parked_jobs
        WHERE queue_id = p_queue AND state = 'arrived' AND enqueued_at >= p_since
        ORDER BY enqueued_at
        LIMIT p_limit
    ) AS job;
    -- Not locked before their groups are: who advances a group locks it first, and its jobs then.
    IF arrivals IS NOT NULL THEN
        groups := {schema}.try_lock_groups(p_queue, ARRAY (SELECT DISTINCT name FROM unnest(groups) AS name));
        moved := moved + {schema}.advance_groups(p_queue, groups);
        -- Only what advance_groups() has seen: whatever stands in its place by now has another id.
        UPDATE {schema}.parked_jobs
        SET state = 'behind'
        WHERE ctid = ANY (places) AND id + 0 = ANY (arrivals) AND state::text = 'arrived' AND group_key = ANY (groups);
    END IF;
    RETURN moved;
END
$body$;

-- Of the jobs of one priority that came back, those that can be leased, and now are locked; in the order of their ids.
CREATE OR REPLACE FUNCTION {schema}.pick_returned(p_queue integer, p_priority smallint, p_from bigint, p_below bigint,
    p_limit integer, p_without text[])
RETURNS bigint[]
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    held bigint[] := {schema}.held_ids(p_queue, p_priority, 0);
    picked bigint[];
BEGIN
    picked := ARRAY (
        SELECT id
        FROM {schema}.jobs
        WHERE queue_id = p_queue AND priority = p_priority AND came_back >= p_from AND id + 0 < p_below
            AND id NOT IN (SELECT unnest(held))
            AND (expires_at IS NULL OR attempt > 0 OR expires_at > now())
            AND (p_without IS NULL OR name <> ALL (p_without))
        ORDER BY came_back
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    );
    IF picked <> '{}' THEN
        held := {schema}.held_ids(p_queue, p_priority, 0);
        picked := {schema}.sorted(
            ARRAY (SELECT number FROM unnest(picked) AS number WHERE number NOT IN (SELECT unnest(held))));
    END IF;
    RETURN picked;
END
$body$;

-- Of jobs, those that come first and together have no more bytes than given; one at least, if p_at_least_one.
CREATE OR REPLACE FUNCTION {schema}.first_bytes(p_queue integer, p_priority smallint, p_ids bigint[], p_bytes bigint,
    p_at_least_one boolean)
RETURNS bigint[]
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
BEGIN
    RETURN ARRAY (
        SELECT few.id
        FROM (
            SELECT job.id, sum(octet_length(job.payload)) OVER (ROWS UNBOUNDED PRECEDING) AS bytes
            FROM unnest(p_ids) AS wanted (id),
                LATERAL (
                    SELECT found.id, found.payload
                    FROM {schema}.jobs AS found
                    WHERE found.queue_id = p_queue AND found.priority = p_priority AND found.id = wanted.id
                    OFFSET 0
                ) AS job
        ) AS few
        WHERE few.bytes <= p_bytes OR (p_at_least_one AND few.id = p_ids[1])
    );
END
$body$;

-- Lease jobs: the highest priority first, then the oldest (the rows come in no order). Gives nothing while the queue is
-- paused, or where the lease is gone. A batch has at most 16 MiB of payloads, and one job at least.
--
-- p_without has the names that are not wanted. p_floors has where to look, so that no claim passes what others hold, nor
-- the dead rows that an old transaction keeps:
--   1 to 11   for each priority from 0, the id from which on to look; 0: from the start
--   12 to 22  for each priority, of jobs below that which came back, the number from which on to look; null: at none
--   23        how many milliseconds ago a look from the start was made; null: this is one
-- What may stand below is found by a call with zeros and nulls. The rows say how to go on: behind the last id, and the
-- last number in came_back (of a look from the start: the last that was given by then).
--
-- Two claims at once: rows are locked first (and those that others have locked are skipped), then the claims are read
-- once more. Whoever held such a row before has committed its claim by then, or rolled it back.
CREATE OR REPLACE FUNCTION {schema}.claim(p_queue integer, p_lease bigint, p_limit integer, p_floors bigint[],
    p_without text[])
RETURNS TABLE (claim_id bigint, id bigint, attempt smallint, priority smallint, suspect boolean, name text,
    payload bytea, content_type text, headers jsonb, enqueued_at timestamptz, run_at timestamptz,
    expires_at timestamptz, group_key text, deduplication_key text, extra jsonb, came_back bigint)
LANGUAGE plpgsql SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_bitmapscan = off SET enable_sort = off AS $body$
#variable_conflict use_column
DECLARE
    most_bytes CONSTANT bigint := 16 * 1024 * 1024;
    wanted integer := p_limit;
    bytes_left bigint := most_bytes;
    since timestamptz := coalesce(now() - (p_floors[23] + 2000) * interval '1 millisecond', '-infinity');
    returned_by bigint := coalesce(pg_sequence_last_value('{schema_in_text}.returns'), 0);
    levels smallint[];
    firsts bigint[];
    returns bigint[];
    place integer;
    level smallint;
    held bigint[];
    picked bigint[];
    bytes bigint;
    new_claim bigint;
BEGIN
    IF (SELECT paused OR paused_by_hand FROM {schema}.queues WHERE id = p_queue) THEN
        RETURN;
    END IF;
    -- Nobody ends the lease before this claim is committed.
    PERFORM FROM {schema}.leases WHERE id = p_lease AND was_alone IS NULL FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF (SELECT run_at <= now() FROM {schema}.parked_jobs
            WHERE queue_id = p_queue AND state = 'delayed' AND run_at >= since ORDER BY run_at LIMIT 1)
        OR EXISTS (
            SELECT FROM {schema}.parked_jobs WHERE queue_id = p_queue AND state = 'arrived' AND enqueued_at >= since)
    THEN
        -- Among a hundred at least: of what has arrived, the highest priority goes first, whatever the limit.
        PERFORM {schema}.promote(p_queue, greatest(2 * p_limit, 100), since);
    END IF;
    -- The first job of each priority, dead rows before it passed once and for all; and the first that came back. The
    -- series comes in its order.
    SELECT array_agg(number::smallint), array_agg(first.id), array_agg(first.came_back)
    INTO levels, firsts, returns
    FROM generate_series(10, 0, -1) AS number,
        LATERAL (
            SELECT
                (SELECT job.id
                    FROM {schema}.jobs AS job
                    WHERE job.queue_id = p_queue AND job.priority = number::smallint AND job.id >= p_floors[number + 1]
                    ORDER BY job.id
                    LIMIT 1) AS id,
                (SELECT job.came_back
                    FROM {schema}.jobs AS job
                    WHERE job.queue_id = p_queue AND job.priority = number::smallint
                        AND job.came_back >= p_floors[number + 12]
                    ORDER BY job.came_back
                    LIMIT 1) AS came_back
            OFFSET 0
        ) AS first
    WHERE first.id IS NOT NULL OR first.came_back IS NOT NULL;
    FOR place IN 1 .. coalesce(cardinality(levels), 0) LOOP
        level := levels[place];

        -- Those that came back are older than all from the floor on.
        IF returns[place] IS NOT NULL THEN
            picked := {schema}.pick_returned(p_queue, level, returns[place], p_floors[level + 1], wanted, p_without);
            IF picked <> '{}' THEN
                picked := {schema}.first_bytes(p_queue, level, picked, bytes_left, bytes_left = most_bytes);
                EXIT WHEN picked = '{}';
                INSERT INTO {schema}.claims (lease_id, last_id, queue_id, priority, job_ids)
                VALUES (p_lease, picked[cardinality(picked)], p_queue, level, picked)
                RETURNING id INTO new_claim;
                SELECT sum(octet_length(payload)) INTO bytes
                FROM {schema}.jobs
                WHERE ctid = ANY ({schema}.places(p_queue, level, picked));
                RETURN QUERY
                    SELECT new_claim, id, (attempt + 1)::smallint, priority, suspect, name, payload, content_type,
                        headers, enqueued_at, run_at, expires_at, group_key, deduplication_key, extra, came_back
                    FROM {schema}.jobs
                    WHERE ctid = ANY ({schema}.places(p_queue, level, picked));
                bytes_left := bytes_left - bytes;
                wanted := wanted - cardinality(picked);
                EXIT WHEN wanted <= 0;
            END IF;
        END IF;

        CONTINUE WHEN firsts[place] IS NULL;
        held := {schema}.held_ids(p_queue, level, firsts[place]);
        SELECT array_agg(few.id), sum(octet_length(few.payload))
        INTO picked, bytes
        FROM (
            SELECT id, payload
            FROM {schema}.jobs
            WHERE queue_id = p_queue AND priority = level AND id >= firsts[place]
                AND id NOT IN (SELECT unnest(held))
                AND (expires_at IS NULL OR attempt > 0 OR expires_at > now())
                AND (p_without IS NULL OR name <> ALL (p_without))
            ORDER BY id
            LIMIT wanted
            FOR UPDATE SKIP LOCKED
        ) AS few;
        CONTINUE WHEN picked IS NULL;
        IF bytes > bytes_left THEN
            picked := {schema}.first_bytes(p_queue, level, picked, bytes_left, bytes_left = most_bytes);
            wanted := cardinality(picked); -- No more than these.
            EXIT WHEN picked = '{}';
        END IF;
        bytes_left := bytes_left - bytes;
        held := {schema}.held_ids(p_queue, level, picked[1]);
        IF held <> '{}' THEN
            picked := ARRAY (SELECT number FROM unnest(picked) AS number WHERE number NOT IN (SELECT unnest(held)));
            CONTINUE WHEN picked = '{}';
        END IF;
        INSERT INTO {schema}.claims (lease_id, last_id, queue_id, priority, job_ids)
        VALUES (p_lease, picked[cardinality(picked)], p_queue, level, picked)
        RETURNING id INTO new_claim;
        RETURN QUERY
            SELECT new_claim, id, (attempt + 1)::smallint, priority, suspect, name, payload, content_type, headers,
                enqueued_at, run_at, expires_at, group_key, deduplication_key, extra,
                CASE WHEN p_floors[level + 12] IS NULL THEN returned_by END
            FROM {schema}.jobs
            WHERE queue_id = p_queue AND priority = level AND id = ANY (picked)
                AND id BETWEEN picked[1] AND picked[cardinality(picked)];
        wanted := wanted - cardinality(picked);
        EXIT WHEN wanted <= 0;
    END LOOP;
END
$body$;

-- Lease one suspect, for a worker that holds nothing: neither by its own account nor by ours.
CREATE OR REPLACE FUNCTION {schema}.claim_suspect(p_queue integer, p_lease bigint)
RETURNS TABLE (claim_id bigint, id bigint, attempt smallint, priority smallint, suspect boolean, name text,
    payload bytea, content_type text, headers jsonb, enqueued_at timestamptz, run_at timestamptz,
    expires_at timestamptz, group_key text, deduplication_key text, extra jsonb, came_back bigint)
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
#variable_conflict use_column
DECLARE
    picked tid;
    picked_id bigint;
    level smallint;
    new_claim bigint;
BEGIN
    IF (SELECT paused OR paused_by_hand FROM {schema}.queues WHERE id = p_queue) THEN
        RETURN;
    END IF;
    PERFORM FROM {schema}.leases WHERE id = p_lease AND was_alone IS NULL FOR KEY SHARE;
    IF NOT FOUND OR EXISTS (SELECT FROM {schema}.claims WHERE lease_id = p_lease) THEN
        RETURN;
    END IF;
    SELECT job.ctid, job.id, job.priority INTO picked, picked_id, level
    FROM {schema}.parked_jobs AS job
    WHERE job.queue_id = p_queue AND job.state = 'suspect' AND (job.run_at IS NULL OR job.run_at <= now())
        AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now())
    ORDER BY job.priority DESC, job.id
    LIMIT 1
    FOR UPDATE SKIP LOCKED;
    IF picked IS NULL THEN
        RETURN;
    END IF;
    PERFORM {schema}.unpark(ARRAY [picked]);
    INSERT INTO {schema}.claims (lease_id, last_id, queue_id, priority, job_ids)
    VALUES (p_lease, picked_id, p_queue, level, ARRAY [picked_id])
    RETURNING id INTO new_claim;
    RETURN QUERY
        SELECT new_claim, id, (attempt + 1)::smallint, priority, suspect, name, payload, content_type, headers,
            enqueued_at, run_at, expires_at, group_key, deduplication_key, extra, came_back
        FROM {schema}.jobs
        WHERE queue_id = p_queue AND priority = level AND id = picked_id;
END
$body$;

-- Whose turn it is to make room for a suspect, which is claimed alone: of the workers that send heartbeats the one that
-- holds the fewest jobs, for half a minute; then another's. Who has made room in vain is busy with long jobs, and is not
-- asked again for five minutes: its other slots must not stand still for as long as a suspect waits.
CREATE OR REPLACE FUNCTION {schema}.make_room(p_queue integer, p_lease bigint) RETURNS boolean
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    chosen bigint;
BEGIN
    SELECT id INTO chosen
    FROM {schema}.leases
    WHERE queue_id = p_queue AND heartbeats AND was_alone IS NULL AND expires_at > now()
        AND made_room_at > now() - interval '30 seconds' AND made_room_at <= now() + interval '5 seconds'
    LIMIT 1;
    IF chosen IS NOT NULL THEN
        RETURN chosen = p_lease;
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('headrace.dev/room/' || {schema_literal}, p_queue)) THEN
        RETURN false;
    END IF;
    SELECT lease.id INTO chosen
    FROM {schema}.leases AS lease,
        LATERAL (
            SELECT coalesce(sum(cardinality(claim.job_ids)), 0) AS count
            FROM {schema}.claims AS claim
            WHERE claim.lease_id = lease.id
        ) AS held
    WHERE lease.queue_id = p_queue AND lease.heartbeats AND lease.was_alone IS NULL AND lease.expires_at > now()
        AND (lease.made_room_at IS NULL OR lease.made_room_at NOT BETWEEN now() - interval '330 seconds' AND now())
    ORDER BY held.count, lease.id
    LIMIT 1;
    UPDATE {schema}.leases
    SET made_room_at = now()
    WHERE id IN (SELECT lease.id FROM {schema}.leases AS lease WHERE lease.id = chosen FOR NO KEY UPDATE SKIP LOCKED);
    RETURN FOUND AND chosen = p_lease;
END
$body$;

-- When the next delayed job is due; null without one. What is due already has been looked at.
CREATE OR REPLACE FUNCTION {schema}.next_due(p_queue integer) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $body$
BEGIN
    RETURN least(
        (SELECT run_at FROM {schema}.parked_jobs
            WHERE queue_id = p_queue AND state = 'delayed' AND run_at > now() ORDER BY run_at LIMIT 1),
        -- Suspects are few.
        (SELECT min(run_at) FROM {schema}.parked_jobs
            WHERE queue_id = p_queue AND state = 'suspect' AND run_at > now())
    );
END
$body$;
