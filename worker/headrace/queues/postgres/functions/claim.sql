-- Claiming: what can start moves out of the parked jobs, and is leased.

-- Move what can be claimed now out of the parked jobs: delayed jobs that are due, and heads of groups among the arrivals.
-- Waits for nobody. Only what became due, or arrived, since a time (a queue's whole history of dead rows may stand before).
CREATE OR REPLACE FUNCTION {schema}.promote(p_queue integer, p_limit integer,
    p_due_from timestamptz DEFAULT '-infinity', p_arrived_from timestamptz DEFAULT '-infinity')
RETURNS integer
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    most_bytes CONSTANT bigint := 4 * 1024 * 1024;
    due tid[];
    arrivals bigint[];
    places tid[];
    groups text[];
    locked text[];
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
                WHERE queue_id = p_queue AND state = 'delayed' AND run_at <= now() AND run_at >= p_due_from
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
        WHERE queue_id = p_queue AND state = 'arrived' AND enqueued_at >= p_arrived_from
        ORDER BY enqueued_at
        LIMIT p_limit
    ) AS job;
    -- Not locked before their groups are: who advances a group locks it first, and its jobs then.
    IF arrivals IS NOT NULL THEN
        locked := {schema}.try_lock_groups(p_queue, ARRAY (SELECT DISTINCT name FROM unnest(groups) AS name));
        SELECT array_agg(job.id), array_agg(job.place), array_agg(job.name)
        INTO arrivals, places, groups
        FROM unnest(arrivals, places, groups) AS job (id, place, name)
        WHERE (job.name IN (SELECT unnest(locked))) IS TRUE;
        moved := moved + {schema}.advance_groups(p_queue, groups, arrivals);
        -- Only what advance_groups() has seen: whatever stands in its place by now has another id.
        UPDATE {schema}.parked_jobs
        SET state = 'behind'
        WHERE ctid = ANY (places) AND (id + 0 IN (SELECT unnest(arrivals))) IS TRUE AND state::text = 'arrived';
    END IF;
    RETURN moved;
END
$body$;

-- How many of these sizes, from the first on, fit.
CREATE OR REPLACE FUNCTION {schema}.fitting(p_sizes bigint[], p_bytes bigint) RETURNS integer
LANGUAGE plpgsql IMMUTABLE AS $body$
DECLARE
    left_over bigint := p_bytes;
BEGIN
    FOR number IN 1 .. cardinality(p_sizes) LOOP
        left_over := left_over - p_sizes[number];
        IF left_over < 0 THEN
            RETURN number - 1;
        END IF;
    END LOOP;
    RETURN cardinality(p_sizes);
END
$body$;

-- Where to look. Jobs stand in two lanes of each priority: those that have always been there, by id, and those that came
-- back, by the number that they got then. Both are claimed from the front, so behind the last that was claimed stands what
-- is next: a look from there passes neither what is held nor the dead rows of what is done, however many workers hold
-- however much. Below may stand what was committed late, or locked for a moment: twice a second one of all workers makes a
-- look from the start, and everybody goes on where it ended. (Claims of before say nothing any more: a lot may have come
-- late.) Who finds nothing makes one, too. Where such a look is dear, since much is held or an old transaction keeps dead
-- rows, it takes a twentieth of the time at most; looks between these begin where others ended some seconds ago, and find
-- whatever was not committed for longer than that. `watches` has what the last one found; only what follows is written
-- here: take_turn(), share_lanes(), pick_fresh(), pick_back(), claim().

-- Whether it is this transaction's turn to look from the start, where that is due, or its caller has found nothing; the
-- watch is locked then. Waits for nobody.
CREATE OR REPLACE FUNCTION {schema}.take_turn(p_queue integer, p_is_hungry boolean) RETURNS boolean
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
DECLARE
    due_at timestamptz;
BEGIN
    SELECT CASE WHEN p_is_hungry THEN hungry_at ELSE look_at END INTO due_at
    FROM {schema}.watches
    WHERE queue_id >= p_queue AND queue_id <= p_queue
    ORDER BY queue_id DESC
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED;
    RETURN FOUND AND due_at NOT BETWEEN now() AND now() + interval '2 minutes';
END
$body$;

-- How many jobs a look passes at most where names are left out, however many of these there are: a few milliseconds.
CREATE OR REPLACE FUNCTION {schema}.most_passed() RETURNS integer
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT 10000;
END;

-- Jobs of one priority that have always been there, locked: from an id on, the oldest first; whether that is all; and where
-- names are left out and the look ended early, from where on the next is to go on.
--
-- Two claims at once: rows are locked first (and those that others have locked are skipped), then the claims are read
-- once more. Whoever held such a row before has committed its claim by then, or rolled it back.
CREATE OR REPLACE FUNCTION {schema}.pick_fresh(p_queue integer, p_priority smallint, p_from bigint, p_limit integer,
    p_without text[], OUT ids bigint[], OUT sizes bigint[], OUT is_end boolean, OUT beyond bigint)
LANGUAGE plpgsql SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    first bigint := p_from;
    held bigint[];
BEGIN
    LOOP
        held := ARRAY (
            SELECT unnest(claim.job_ids)
            FROM {schema}.claims AS claim
            WHERE claim.queue_id = p_queue AND claim.priority = p_priority AND claim.last_id >= first
                AND claim.last_return IS NULL);
        FOR step IN CASE WHEN p_without IS NULL THEN 2 ELSE 1 END .. 2 LOOP
            -- Most often these few are all that is wanted; else as many are passed as may be.
            beyond := CASE
                WHEN p_without IS NULL THEN NULL
                WHEN step = 1 THEN first + {schema}.most_passed() / 10
                ELSE (
                    SELECT job.id
                    FROM {schema}.jobs AS job
                    WHERE job.queue_id = p_queue AND job.priority = p_priority AND job.id >= first
                    ORDER BY job.id
                    OFFSET {schema}.most_passed()
                    LIMIT 1)
            END;
            SELECT array_agg(few.id), array_agg(few.size)
            INTO ids, sizes
            FROM (
                SELECT job.id, octet_length(job.payload)::bigint AS size
                FROM {schema}.jobs AS job
                WHERE job.queue_id = p_queue AND job.priority = p_priority AND job.id >= first
                    AND job.id < coalesce(beyond, 9223372036854775807) AND job.came_back IS NULL
                    AND job.id NOT IN (SELECT unnest(held))
                    AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now())
                    AND (p_without IS NULL OR job.name <> ALL (p_without))
                ORDER BY job.id
                LIMIT p_limit
                FOR UPDATE SKIP LOCKED
            ) AS few;
            EXIT WHEN cardinality(ids) >= p_limit;
        END LOOP;
        is_end := coalesce(cardinality(ids), 0) < p_limit AND beyond IS NULL;
        IF cardinality(ids) >= p_limit THEN
            beyond := NULL;
        END IF;
        held := ARRAY (
            SELECT unnest(claim.job_ids)
            FROM {schema}.claims AS claim
            WHERE claim.queue_id = p_queue AND claim.priority = p_priority AND claim.last_id >= ids[1]
                AND claim.last_return IS NULL);
        EXIT WHEN ids IS NULL OR held = '{}';
        first := ids[cardinality(ids)] + 1;
        SELECT array_agg(few.id), array_agg(few.size)
        INTO ids, sizes
        FROM unnest(ids, sizes) AS few (id, size)
        WHERE few.id NOT IN (SELECT unnest(held));
        -- Somebody has claimed all of them just before they were locked: the next stand behind.
        EXIT WHEN ids IS NOT NULL;
    END LOOP;
END
$body$;

-- The same of jobs that came back: from a number on, in the order of these.
CREATE OR REPLACE FUNCTION {schema}.pick_back(p_queue integer, p_priority smallint, p_from bigint, p_limit integer,
    p_without text[], OUT ids bigint[], OUT sizes bigint[], OUT numbers bigint[], OUT is_end boolean,
    OUT beyond bigint)
LANGUAGE plpgsql SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    first bigint := p_from;
    held bigint[];
BEGIN
    LOOP
        held := ARRAY (
            SELECT unnest(claim.job_ids)
            FROM {schema}.claims AS claim
            WHERE claim.queue_id = p_queue AND claim.priority = p_priority AND claim.last_return >= first);
        FOR step IN CASE WHEN p_without IS NULL THEN 2 ELSE 1 END .. 2 LOOP
            -- Most often these few are all that is wanted; else as many are passed as may be.
            beyond := CASE
                WHEN p_without IS NULL THEN NULL
                WHEN step = 1 THEN first + {schema}.most_passed() / 10
                ELSE (
                    SELECT job.came_back
                    FROM {schema}.jobs AS job
                    WHERE job.queue_id = p_queue AND job.priority = p_priority AND job.came_back >= first
                    ORDER BY job.came_back
                    OFFSET {schema}.most_passed()
                    LIMIT 1)
            END;
            SELECT array_agg(few.id), array_agg(few.size), array_agg(few.came_back)
            INTO ids, sizes, numbers
            FROM (
                SELECT job.id, job.came_back, octet_length(job.payload)::bigint AS size
                FROM {schema}.jobs AS job
                WHERE job.queue_id = p_queue AND job.priority = p_priority AND job.came_back >= first
                    AND job.came_back < coalesce(beyond, 9223372036854775807) AND job.id NOT IN (SELECT unnest(held))
                    AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now())
                    AND (p_without IS NULL OR job.name <> ALL (p_without))
                ORDER BY job.came_back
                LIMIT p_limit
                FOR UPDATE SKIP LOCKED
            ) AS few;
            EXIT WHEN cardinality(ids) >= p_limit;
        END LOOP;
        is_end := coalesce(cardinality(ids), 0) < p_limit AND beyond IS NULL;
        IF cardinality(ids) >= p_limit THEN
            beyond := NULL;
        END IF;
        held := ARRAY (
            SELECT unnest(claim.job_ids)
            FROM {schema}.claims AS claim
            WHERE claim.queue_id = p_queue AND claim.priority = p_priority AND claim.last_return >= numbers[1]);
        EXIT WHEN ids IS NULL OR held = '{}';
        first := numbers[cardinality(numbers)] + 1;
        SELECT array_agg(few.id), array_agg(few.size), array_agg(few.number)
        INTO ids, sizes, numbers
        FROM unnest(ids, sizes, numbers) AS few (id, size, number)
        WHERE few.id NOT IN (SELECT unnest(held));
        EXIT WHEN ids IS NOT NULL;
    END LOOP;
END
$body$;

-- How many of p_limit jobs of one priority shall be such that came back, where there are both: the older ones go first,
-- as far as each lane's own order lets them.
CREATE OR REPLACE FUNCTION {schema}.share_lanes(p_queue integer, p_priority smallint, p_fresh_from bigint,
    p_back_from bigint, p_limit integer)
RETURNS integer
LANGUAGE plpgsql SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    held bigint[];
    fresh bigint[];
    back bigint[];
    age bigint := 0;
    of_fresh integer := 0;
    of_back integer := 0;
BEGIN
    held := ARRAY (
        SELECT unnest(claim.job_ids)
        FROM {schema}.claims AS claim
        WHERE claim.queue_id = p_queue AND claim.priority = p_priority AND claim.last_return >= p_back_from);
    back := ARRAY (
        SELECT job.id
        FROM {schema}.jobs AS job
        WHERE job.queue_id = p_queue AND job.priority = p_priority AND job.came_back >= p_back_from
            AND job.id NOT IN (SELECT unnest(held))
        ORDER BY job.came_back
        LIMIT p_limit
    );
    IF back = '{}' THEN
        RETURN 0;
    END IF;
    held := ARRAY (
        SELECT unnest(claim.job_ids)
        FROM {schema}.claims AS claim
        WHERE claim.queue_id = p_queue AND claim.priority = p_priority AND claim.last_id >= p_fresh_from
            AND claim.last_return IS NULL);
    fresh := ARRAY (
        SELECT job.id
        FROM {schema}.jobs AS job
        WHERE job.queue_id = p_queue AND job.priority = p_priority AND job.id >= p_fresh_from AND job.came_back IS NULL
            AND job.id NOT IN (SELECT unnest(held))
        ORDER BY job.id
        LIMIT p_limit
    );
    WHILE of_fresh + of_back < p_limit AND of_back < cardinality(back) LOOP
        age := greatest(age, back[of_back + 1]);
        IF age < fresh[of_fresh + 1] OR of_fresh >= cardinality(fresh) THEN
            of_back := of_back + 1;
        ELSE
            of_fresh := of_fresh + 1;
        END IF;
    END LOOP;
    RETURN of_back;
END
$body$;

-- Lease jobs: the highest priority first, then about the oldest (the rows come in no order). Gives nothing while the queue
-- is paused, or where the lease is gone. A batch has at most 16 MiB of payloads, and one job at least. p_without has the
-- names that are not wanted.
--
-- p_floors are what the caller knows by itself, like watches.floors, and p_look is the look after which it found that. Who
-- leaves names out does not go by the claims of others, and nobody goes by its claims. Its look ends after so many jobs,
-- whatever their names. A row without a claim has, in place of a job, the last that was passed in vain.
CREATE OR REPLACE FUNCTION {schema}.claim(p_queue integer, p_lease bigint, p_limit integer, p_floors bigint[],
    p_without text[], p_look bigint)
RETURNS TABLE (claim_id bigint, id bigint, attempt smallint, priority smallint, suspect boolean, name text,
    payload bytea, content_type text, headers jsonb, enqueued_at timestamptz, run_at timestamptz,
    expires_at timestamptz, group_key text, deduplication_key text, extra jsonb, came_back bigint, look bigint)
LANGUAGE plpgsql SET jit = off SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET enable_bitmapscan = off SET enable_sort = off AS $body$
#variable_conflict use_column
DECLARE
    most_bytes CONSTANT bigint := 16 * 1024 * 1024;
    most_vain CONSTANT bigint := 2000;
    takes_all CONSTANT boolean := p_without IS NULL;
    watch {schema}.watches;
    is_due boolean;
    has_turn boolean := false;
    from_start boolean;
    is_near boolean;
    is_kept boolean;
    is_second boolean := false;
    began timestamptz;
    took_seconds double precision;
    expense_seconds double precision;
    floors bigint[];
    verified bigint[];
    ends bigint[];
    beyond_fresh bigint;
    beyond_back bigint;
    wanted integer := p_limit;
    bytes_left bigint := most_bytes;
    first record;
    fresh_from bigint;
    back_from bigint;
    passed_to bigint;
    due_at timestamptz;
    arrived_at timestamptz;
    of_back integer;
    asked integer;
    ids bigint[];
    sizes bigint[];
    numbers bigint[];
    is_last boolean;
    beyond bigint;
    fitting integer;
    new_claim bigint;
BEGIN
    IF (SELECT paused OR paused_by_hand FROM {schema}.queues WHERE id = p_queue) THEN
        RETURN;
    END IF;
    -- Nobody ends the lease before this claim is committed.
    IF NOT {schema}.hold_lease(p_lease) THEN
        RETURN;
    END IF;
    SELECT * INTO watch
    FROM {schema}.watches
    WHERE queue_id >= p_queue AND queue_id <= p_queue
    ORDER BY queue_id DESC
    LIMIT 1;
    -- Without a watch, after a crash, every look is from the start. A heartbeat makes another.
    from_start := NOT FOUND;
    is_due := watch.look_at NOT BETWEEN now() AND now() + interval '2 minutes';
    IF is_due THEN
        has_turn := {schema}.take_turn(p_queue, false);
        from_start := has_turn;
    END IF;
    LOOP
        began := clock_timestamp();
        floors := array_fill(0::bigint, ARRAY [22]);
        verified := floors;
        is_near := from_start AND (watch.full_at BETWEEN now() AND now() + interval '2 minutes') IS TRUE;
        beyond_fresh := coalesce(pg_sequence_last_value('{schema_in_text}.jobs_id_seq'), 0) + 1;
        IF from_start THEN
            ends := watch.floors;
            beyond_back := coalesce(pg_sequence_last_value('{schema_in_text}.returns'), 0) + 1;
            IF is_near THEN
                floors := ARRAY (
                    SELECT least(lane.near, lane.last) FROM unnest(watch.near_floors, watch.floors) AS lane (near, last));
                watch.due_from := watch.due_from - interval '2 seconds';
                watch.arrived_from := watch.arrived_from - interval '2 seconds';
            ELSE
                watch.due_from := '-infinity';
                watch.arrived_from := '-infinity';
            END IF;
        ELSE
            IF p_look = watch.look OR NOT takes_all THEN
                floors := p_floors;
            END IF;
            verified := watch.floors;
        END IF;
        due_at := (
            SELECT run_at FROM {schema}.parked_jobs
            WHERE queue_id = p_queue AND state = 'delayed' AND run_at >= watch.due_from AND run_at <= now()
            ORDER BY run_at LIMIT 1);
        arrived_at := (
            SELECT enqueued_at FROM {schema}.parked_jobs
            WHERE queue_id = p_queue AND state = 'arrived' AND enqueued_at >= watch.arrived_from
            ORDER BY enqueued_at LIMIT 1);
        IF due_at IS NOT NULL OR arrived_at IS NOT NULL THEN
            -- Among a hundred at least: of what has arrived, the highest priority goes first, whatever the limit.
            PERFORM {schema}.promote(p_queue, greatest(2 * p_limit, 100), coalesce(due_at, 'infinity'),
                coalesce(arrived_at, 'infinity'));
        END IF;
        -- The first job of each lane. The series comes in its order.
        FOR first IN
            SELECT number::smallint AS level,
                (SELECT job.id
                    FROM {schema}.jobs AS job
                    WHERE job.queue_id = p_queue AND job.priority = number::smallint AND job.came_back IS NULL
                        AND job.id >= greatest(floors[number + 1], verified[number + 1])
                    ORDER BY job.id
                    LIMIT 1) AS fresh,
                (SELECT job.came_back
                    FROM {schema}.jobs AS job
                    WHERE job.queue_id = p_queue AND job.priority = number::smallint
                        AND job.came_back >= greatest(floors[number + 12], verified[number + 12])
                    ORDER BY job.came_back
                    LIMIT 1) AS back
            FROM generate_series(10, 0, -1) AS number
        LOOP
            fresh_from := first.fresh;
            back_from := first.back;
            passed_to := coalesce(fresh_from, beyond_fresh - most_vain);
            IF NOT from_start AND passed_to > greatest(floors[first.level + 1], verified[first.level + 1]) + most_vain THEN
                -- Many that came back, or are done, stand before the first that did not, or there is none.
                id := passed_to - 1;
                priority := first.level;
                came_back := NULL;
                look := watch.look;
                RETURN NEXT;
            END IF;
            IF from_start THEN
                -- Below the first there is nothing, whatever the names; and where some are left out, nothing below what
                -- a look for all has passed.
                ends[first.level + 1] := greatest(coalesce(fresh_from, beyond_fresh),
                    CASE WHEN NOT takes_all THEN ends[first.level + 1] END);
                ends[first.level + 12] := greatest(coalesce(back_from, beyond_back),
                    CASE WHEN NOT takes_all THEN ends[first.level + 12] END);
            ELSIF takes_all THEN
                IF fresh_from IS NOT NULL THEN
                    fresh_from := greatest(fresh_from, (
                        SELECT claim.last_id + 1
                        FROM {schema}.claims AS claim
                        WHERE claim.queue_id = p_queue AND claim.priority = first.level AND claim.look = watch.look
                            AND claim.last_return IS NULL AND claim.last_id >= fresh_from
                        ORDER BY claim.last_id DESC
                        LIMIT 1));
                END IF;
                IF back_from IS NOT NULL THEN
                    back_from := greatest(back_from, (
                        SELECT claim.last_return + 1
                        FROM {schema}.claims AS claim
                        WHERE claim.queue_id = p_queue AND claim.priority = first.level AND claim.look = watch.look
                            AND claim.last_return >= back_from
                        ORDER BY claim.last_return DESC
                        LIMIT 1));
                END IF;
            END IF;
            of_back := CASE
                WHEN back_from IS NULL THEN 0
                WHEN fresh_from IS NULL THEN wanted
                ELSE {schema}.share_lanes(p_queue, first.level, fresh_from, back_from, wanted)
            END;
            FOR lane IN 1 .. 2 LOOP
                numbers := NULL;
                IF lane = 1 THEN
                    asked := of_back;
                    CONTINUE WHEN asked = 0;
                    SELECT * INTO ids, sizes, numbers, is_last, beyond
                    FROM {schema}.pick_back(p_queue, first.level, back_from, asked, p_without);
                ELSE
                    asked := wanted;
                    CONTINUE WHEN asked <= 0 OR fresh_from IS NULL;
                    SELECT * INTO ids, sizes, is_last, beyond
                    FROM {schema}.pick_fresh(p_queue, first.level, fresh_from, asked, p_without);
                END IF;
                fitting := coalesce(cardinality(ids), 0);
                is_last := is_last AND (lane = 2 OR fresh_from IS NULL);
                IF (SELECT sum(size) FROM unnest(sizes) AS size) > bytes_left THEN
                    is_last := false;
                    beyond := NULL;
                    fitting := {schema}.fitting(sizes, bytes_left);
                    IF fitting = 0 AND bytes_left = most_bytes THEN
                        fitting := 1;
                    END IF;
                    wanted := fitting; -- No more than these.
                    ids := ids[:fitting];
                    sizes := sizes[:fitting];
                    numbers := numbers[:fitting];
                END IF;
                IF from_start AND takes_all AND lane = 1 THEN
                    ends[first.level + 12] := coalesce(CASE WHEN is_last THEN beyond_back END, numbers[fitting] + 1,
                        back_from);
                ELSIF from_start AND takes_all THEN
                    ends[first.level + 1] := coalesce(CASE WHEN is_last THEN beyond_fresh END, ids[fitting] + 1,
                        fresh_from);
                END IF;
                IF beyond IS NOT NULL THEN
                    id := beyond - 1;
                    priority := first.level;
                    came_back := CASE WHEN lane = 1 THEN beyond - 1 END;
                    look := watch.look;
                    RETURN NEXT;
                END IF;
                CONTINUE WHEN fitting = 0;
                IF lane = 1 THEN
                    ids := {schema}.sorted(ids);
                END IF;
                INSERT INTO {schema}.claims (lease_id, last_id, queue_id, priority, last_return, look, job_ids)
                VALUES (p_lease, ids[fitting], p_queue, first.level, numbers[fitting],
                    CASE WHEN takes_all THEN watch.look END, ids)
                RETURNING id INTO new_claim;
                IF NOT {schema}.stand_together(ids) THEN
                    RETURN QUERY
                        SELECT new_claim, job.id, (job.attempt + 1)::smallint, job.priority, job.suspect, job.name,
                            job.payload, job.content_type, job.headers, job.enqueued_at, job.run_at, job.expires_at,
                            job.group_key, job.deduplication_key, job.extra, job.came_back, watch.look
                        FROM unnest(ids) AS number,
                            LATERAL (
                                SELECT *
                                FROM {schema}.jobs AS one
                                WHERE one.queue_id = p_queue AND one.priority = first.level AND one.id = number
                                OFFSET 0
                            ) AS job;
                ELSE
                    RETURN QUERY
                        SELECT new_claim, id, (attempt + 1)::smallint, priority, suspect, name, payload, content_type,
                            headers, enqueued_at, run_at, expires_at, group_key, deduplication_key, extra, came_back,
                            watch.look
                        FROM {schema}.jobs
                        WHERE queue_id = p_queue AND priority = first.level AND id BETWEEN ids[1] AND ids[fitting]
                            AND ({schema}.are_a_row(ids) OR id IN (SELECT unnest(ids)));
                END IF;
                bytes_left := bytes_left - (SELECT sum(size) FROM unnest(sizes) AS size);
                wanted := wanted - fitting;
            END LOOP;
            EXIT WHEN wanted <= 0;
        END LOOP;
        IF has_turn THEN
            took_seconds := extract(epoch FROM clock_timestamp() - began);
            -- One that was slow by chance tells nothing of the next.
            expense_seconds := least(took_seconds, CASE WHEN is_near THEN watch.near_seconds ELSE watch.look_seconds END);
            expense_seconds := CASE WHEN expense_seconds > 0.005 THEN least(20 * expense_seconds, 60) ELSE 0 END;
            IF is_due OR wanted <= 0 OR took_seconds > 0.005 THEN
                is_kept := watch.kept_at BETWEEN now() - interval '2 seconds' AND now();
                UPDATE {schema}.watches
                SET look = nextval('{schema_in_text}.returns'),
                    look_at = clock_timestamp()
                        + greatest(0.5, CASE WHEN is_near THEN expense_seconds END) * interval '1 second',
                    hungry_at = clock_timestamp()
                        + CASE WHEN is_near THEN expense_seconds ELSE 0 END * interval '1 second',
                    full_at = CASE WHEN is_near THEN full_at
                        ELSE clock_timestamp() + expense_seconds * interval '1 second' END,
                    look_seconds = CASE WHEN is_near THEN look_seconds ELSE took_seconds END,
                    near_seconds = CASE WHEN is_near THEN took_seconds ELSE near_seconds END,
                    floors = ends,
                    near_floors = CASE WHEN is_kept THEN near_floors ELSE kept_floors END,
                    kept_floors = CASE WHEN is_kept THEN kept_floors ELSE ends END,
                    kept_at = CASE WHEN is_kept THEN kept_at ELSE now() END,
                    -- What is committed within this time is found by every claim; what comes later, by the next look.
                    due_from = least(now() - interval '0.25 seconds', (
                        SELECT run_at FROM {schema}.parked_jobs
                        WHERE queue_id = p_queue AND state = 'delayed' AND run_at >= coalesce(due_at, now())
                        ORDER BY run_at LIMIT 1)),
                    arrived_from = least(now() - interval '0.25 seconds', (
                        SELECT enqueued_at FROM {schema}.parked_jobs
                        WHERE queue_id = p_queue AND state = 'arrived' AND enqueued_at >= coalesce(arrived_at, now())
                        ORDER BY enqueued_at LIMIT 1))
                WHERE ctid = (
                    SELECT ctid FROM {schema}.watches
                    WHERE queue_id >= p_queue AND queue_id <= p_queue ORDER BY queue_id DESC LIMIT 1);
            END IF;
        END IF;
        EXIT WHEN wanted < p_limit OR is_second;
        is_second := true;
        IF from_start THEN
            -- Who leaves names out has not come as far as it was already.
            EXIT WHEN takes_all;
            has_turn := false;
            from_start := false;
        ELSE
            -- Nothing is there, by what is known.
            EXIT WHEN watch.hungry_at BETWEEN now() AND now() + interval '2 minutes';
            has_turn := {schema}.take_turn(p_queue, true);
            EXIT WHEN NOT has_turn AND watch.look_seconds > 0.001;
            from_start := true;
        END IF;
    END LOOP;
END
$body$;

-- Lease one suspect, for a worker that holds nothing: neither by its own account nor by ours.
CREATE OR REPLACE FUNCTION {schema}.claim_suspect(p_queue integer, p_lease bigint)
RETURNS TABLE (claim_id bigint, id bigint, attempt smallint, priority smallint, suspect boolean, name text,
    payload bytea, content_type text, headers jsonb, enqueued_at timestamptz, run_at timestamptz,
    expires_at timestamptz, group_key text, deduplication_key text, extra jsonb, came_back bigint, look bigint)
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
    INSERT INTO {schema}.claims (lease_id, last_id, queue_id, priority, last_return, job_ids)
    SELECT p_lease, id, queue_id, priority, came_back, ARRAY [id]
    FROM {schema}.jobs
    WHERE queue_id = p_queue AND priority = level AND id = picked_id
    RETURNING id INTO new_claim;
    RETURN QUERY
        SELECT new_claim, id, (attempt + 1)::smallint, priority, suspect, name, payload, content_type, headers,
            enqueued_at, run_at, expires_at, group_key, deduplication_key, extra, came_back, NULL::bigint
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

-- When the next delayed job is due, or was within so many seconds; null without one. What was due before has been looked at.
CREATE OR REPLACE FUNCTION {schema}.next_due(p_queue integer, p_seconds double precision DEFAULT 0) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    looked_at timestamptz := now() - p_seconds * interval '1 second';
BEGIN
    RETURN least(
        (SELECT run_at FROM {schema}.parked_jobs
            WHERE queue_id = p_queue AND state = 'delayed' AND run_at > looked_at ORDER BY run_at LIMIT 1),
        -- Suspects are few.
        (SELECT min(run_at) FROM {schema}.parked_jobs
            WHERE queue_id = p_queue AND state = 'suspect' AND run_at > looked_at)
    );
END
$body$;
