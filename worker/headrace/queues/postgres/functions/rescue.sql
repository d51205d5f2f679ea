-- Rescue: what becomes of jobs whose worker is gone.

-- Whether a lease runs: one that ends too far in the future was written before the server's clock stepped back.
CREATE OR REPLACE FUNCTION {schema}.runs(p_expires_at timestamptz, p_lease_seconds double precision) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT p_expires_at > now() AND p_expires_at <= now() + (p_lease_seconds + 5) * interval '1 second';
END;

-- Note that somebody looks after the queue; workers do, every few seconds. Where nobody did for half a lease, the backend
-- was away, or all workers were, or the clock stepped back, and the watch begins anew. (Who was cut off for less reports
-- before its lease ends.) Waits for nobody; but of several that are the first after a crash, one is waited for.
CREATE OR REPLACE FUNCTION {schema}.keep_watch(p_queue integer) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    last_seen_at timestamptz;
BEGIN
    SELECT watch.seen_at INTO last_seen_at
    FROM {schema}.watches AS watch
    WHERE watch.queue_id >= p_queue AND watch.queue_id <= p_queue
    ORDER BY watch.queue_id DESC
    LIMIT 1;
    IF NOT FOUND THEN
        INSERT INTO {schema}.watches (queue_id, since, seen_at) VALUES (p_queue, now(), now()) ON CONFLICT DO NOTHING;
    ELSIF last_seen_at NOT BETWEEN now() - interval '2 seconds' AND now() + interval '5 seconds' THEN
        UPDATE {schema}.watches
        SET since = CASE WHEN seen_at BETWEEN now() - interval '10 seconds' AND now() + interval '5 seconds' THEN since
                ELSE now() END,
            seen_at = now()
        WHERE ctid = (
            SELECT watch.ctid
            FROM {schema}.watches AS watch
            WHERE watch.queue_id >= p_queue AND watch.queue_id <= p_queue
            ORDER BY watch.queue_id DESC
            LIMIT 1
            FOR UPDATE SKIP LOCKED
        );
    END IF;
END
$body$;

-- Whether the queue has been looked after for a whole lease: so whoever lives has had the time to report.
CREATE OR REPLACE FUNCTION {schema}.is_watched(p_queue integer, p_lease_seconds double precision) RETURNS boolean
LANGUAGE plpgsql STABLE SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
BEGIN
    RETURN EXISTS (
        SELECT
        FROM {schema}.watches
        WHERE queue_id = p_queue AND since <= now() - p_lease_seconds * interval '1 second'
            AND seen_at BETWEEN now() - interval '10 seconds' AND now() + interval '5 seconds'
    );
END
$body$;

-- Extend a lease, and add what was done under it; gives its queue. One that ran out but was judged by nobody is as good as
-- new; null where it was judged, or is gone.
CREATE OR REPLACE FUNCTION {schema}.extend_lease(p_lease bigint, p_seconds double precision, p_completed bigint DEFAULT 0,
    p_failed bigint DEFAULT 0, p_dead_lettered bigint DEFAULT 0, p_service_seconds double precision DEFAULT 0,
    p_service_histogram bigint[] DEFAULT '{}')
RETURNS integer
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $body$
DECLARE
    place tid;
    of_queue integer;
BEGIN
    SELECT ctid INTO place
    FROM {schema}.leases
    WHERE id >= p_lease AND id <= p_lease AND was_alone IS NULL
    ORDER BY id DESC
    LIMIT 1
    FOR NO KEY UPDATE;
    UPDATE {schema}.leases
    SET expires_at = now() + p_seconds * interval '1 second', lease_seconds = p_seconds,
        completed = completed + p_completed, failed = failed + p_failed, dead_lettered = dead_lettered + p_dead_lettered,
        service_seconds = service_seconds + p_service_seconds,
        service_histogram = CASE WHEN p_service_histogram = '{}' THEN service_histogram
            ELSE {schema}.added(service_histogram, p_service_histogram) END
    WHERE ctid = place
    RETURNING queue_id INTO of_queue;
    RETURN of_queue;
END
$body$;

-- End a lease under which nothing is held any more. What was done under it is added to the queue's totals.
CREATE OR REPLACE FUNCTION {schema}.end_lease(p_lease bigint) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    ended {schema}.leases;
BEGIN
    DELETE FROM {schema}.progress WHERE lease_id = p_lease;
    DELETE FROM {schema}.leases WHERE id = p_lease RETURNING * INTO ended;
    IF FOUND THEN
        PERFORM {schema}.add_totals(ended.queue_id, ended.completed, ended.failed, ended.dead_lettered, 0, 0,
            ended.service_seconds, ended.service_histogram);
    END IF;
END
$body$;

-- Put a lost job back: an ordinary one at its first loss ('ready'), a 'suspect' at its second, or 'dead'. The dead is
-- remembered, and its group and key are the caller's to free.
-- Losses are forgotten a day after the last. Call it with the row locked.
CREATE OR REPLACE FUNCTION {schema}.put_back_lost(p_job {schema}.jobs, p_was_alone boolean) RETURNS text
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
BEGIN
    IF p_job.lost_at <= now() - interval '1 day' THEN
        p_job.losses := 0;
        p_job.deaths := 0;
    END IF;
    p_job.losses := least(p_job.losses + 1, 1000);
    p_job.deaths := p_job.deaths + p_was_alone::integer;
    p_job.lost_at := now();
    p_job.suspect := p_job.losses >= 2;
    IF NOT p_job.suspect AND p_job.deaths < 3 THEN
        UPDATE {schema}.jobs
        SET losses = p_job.losses, deaths = p_job.deaths, lost_at = p_job.lost_at, suspect = false,
            came_back = nextval('{schema_in_text}.returns')
        WHERE queue_id = p_job.queue_id AND priority = p_job.priority AND id = p_job.id;
        RETURN 'ready';
    END IF;
    PERFORM {schema}.take(p_job.queue_id, p_job.priority, ARRAY [p_job.id]);
    IF p_job.deaths < 3 THEN
        PERFORM {schema}.park(p_job, 'suspect');
        RETURN 'suspect';
    END IF;
    PERFORM {schema}.remember_dead(p_job, 'WorkerLost',
        'three workers died, or did not answer for a whole lease, while they ran this job and no other');
    RETURN 'dead';
END
$body$;

-- Put back what is held under a lease that was lost, claim by claim until there are p_limit jobs, and end the lease where
-- nothing is left. Call it with the lease locked, and judged: its was_alone tells whether its worker died with one job and
-- no other. Only then the job is charged with the death, and three deaths are a poisonous job.
--
-- Rows that somebody has locked stay under the lease: a claim just looks at them, or a transaction completes them and may
-- be rolled back. A later rescue takes them, or finds them gone.
CREATE OR REPLACE FUNCTION {schema}.put_back_lease(p_lease bigint, p_is_charged boolean, p_limit integer)
RETURNS TABLE (id bigint, fate text)
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
#variable_conflict use_column
DECLARE
    lost {schema}.leases;
    held {schema}.claims;
    job {schema}.jobs;
    idle bigint[];
    locked bigint[];
    done integer := 0;
    dead_ids bigint[] := '{}';
    dead_groups text[] := '{}';
    dead_keys text[] := '{}';
    put_back bigint[] := '{}';
BEGIN
    SELECT * INTO lost FROM {schema}.leases WHERE id = p_lease;
    FOR held IN SELECT * FROM {schema}.claims WHERE lease_id = p_lease ORDER BY id FOR UPDATE LOOP
        EXIT WHEN done >= p_limit;
        idle := {schema}.lock_idle(held.queue_id, held.priority, held.job_ids);
        locked := {schema}.sorted(ARRAY (
            SELECT job.id
            FROM {schema}.jobs AS job
            WHERE job.ctid = ANY ({schema}.places(held.queue_id, held.priority, held.job_ids))
                AND job.id NOT IN (SELECT unnest(idle))
        ));
        FOR job IN
            SELECT * FROM {schema}.jobs WHERE ctid = ANY ({schema}.places(held.queue_id, held.priority, idle))
        LOOP
            id := job.id;
            fate := {schema}.put_back_lost(job, p_is_charged AND lost.was_alone);
            IF fate = 'dead' THEN
                dead_ids := dead_ids || job.id;
                dead_groups := array_remove(dead_groups || job.group_key, NULL);
                dead_keys := array_remove(dead_keys || job.deduplication_key, NULL);
            END IF;
            done := done + 1;
            RETURN NEXT;
        END LOOP;
        put_back := put_back || held.job_ids;
        IF locked = '{}' THEN
            DELETE FROM {schema}.claims WHERE id = held.id;
        ELSIF locked <> held.job_ids THEN
            UPDATE {schema}.claims SET job_ids = locked WHERE id = held.id;
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM {schema}.claims WHERE lease_id = p_lease) THEN
        PERFORM {schema}.end_lease(p_lease);
    ELSIF done < p_limit THEN
        -- All that is left is locked. A transaction may stay open for long: look again in a while.
        UPDATE {schema}.leases SET expires_at = now() + interval '5 seconds' WHERE id = p_lease;
    END IF;
    IF dead_ids <> '{}' THEN
        PERFORM {schema}.free_group_and_key(lost.queue_id, dead_groups, dead_keys, dead_ids);
        PERFORM {schema}.add_totals(lost.queue_id, p_dead_lettered => cardinality(dead_ids));
    END IF;
    PERFORM {schema}.advance_completed(lost.queue_id, put_back);
    IF done > 0 THEN
        PERFORM {schema}.wake(lost.queue_id, true);
    END IF;
END
$body$;

-- Judge one lease that ran out, and put back what is held under it, up to p_limit jobs; tells whether there is more to do.
-- Nobody is judged before the queue has been watched for a lease: first let everybody report.
CREATE OR REPLACE FUNCTION {schema}.rescue(p_queue integer, p_lease_seconds double precision, p_limit integer)
RETURNS TABLE (rescued integer, suspects integer, poisoned integer, is_more boolean)
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
#variable_conflict use_column
DECLARE
    judges boolean := {schema}.is_watched(p_queue, p_lease_seconds);
    lost {schema}.leases;
BEGIN
    rescued := 0;
    suspects := 0;
    poisoned := 0;
    is_more := false;
    SELECT * INTO lost
    FROM {schema}.leases
    WHERE queue_id = p_queue AND NOT {schema}.runs(expires_at, lease_seconds) AND (judges OR was_alone IS NOT NULL)
    ORDER BY expires_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        IF lost.was_alone IS NULL THEN
            UPDATE {schema}.leases
            SET was_alone = (
                SELECT coalesce(sum(cardinality(claim.job_ids)), 0) = 1
                FROM {schema}.claims AS claim
                WHERE claim.lease_id = lost.id)
            WHERE id = lost.id;
        END IF;
        SELECT count(*) FILTER (WHERE fate <> 'dead'), count(*) FILTER (WHERE fate = 'suspect'),
            count(*) FILTER (WHERE fate = 'dead')
        INTO rescued, suspects, poisoned
        FROM {schema}.put_back_lease(lost.id, true, p_limit);
        is_more := true;
    END IF;
    RETURN NEXT;
END
$body$;

-- Of a claim that ends, keep jobs held whose rows somebody has locked, under a lease that nobody knows and that has run
-- out: the next rescue takes them, or finds them gone.
CREATE OR REPLACE FUNCTION {schema}.mark_lost(p_claim {schema}.claims, p_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
BEGIN
    WITH lease AS (
        INSERT INTO {schema}.leases (queue_id, expires_at, lease_seconds, holder, was_alone)
        SELECT queue_id, least(expires_at, now()), lease_seconds, holder, false
        FROM {schema}.leases
        WHERE id = p_claim.lease_id
        RETURNING id
    )
    INSERT INTO {schema}.claims (lease_id, last_id, claimed_at, queue_id, priority, last_return, job_ids)
    SELECT id, p_claim.last_id, p_claim.claimed_at, p_claim.queue_id, p_claim.priority, p_claim.last_return, p_ids
    FROM lease;
END
$body$;

-- Drop claims: their jobs can be claimed at once, suspects alone as before.
CREATE OR REPLACE FUNCTION {schema}.drop_claims(p_claims bigint[]) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    held {schema}.claims;
    job {schema}.jobs;
    suspects bigint[];
    idle bigint[];
    of_queue integer;
BEGIN
    FOR held IN DELETE FROM {schema}.claims WHERE id = ANY (p_claims) RETURNING * LOOP
        of_queue := held.queue_id;
        PERFORM {schema}.mark_returned(held.queue_id, held.priority, held.job_ids);
        PERFORM {schema}.advance_completed(held.queue_id, held.job_ids);
        -- A suspect is held alone.
        suspects := ARRAY (
            SELECT id
            FROM {schema}.jobs
            WHERE queue_id = held.queue_id AND priority = held.priority AND id = held.job_ids[1] AND suspect);
        CONTINUE WHEN suspects = '{}';
        idle := {schema}.lock_idle(held.queue_id, held.priority, suspects);
        IF idle = '{}' THEN
            PERFORM {schema}.mark_lost(held, suspects);
        END IF;
        FOR job IN SELECT * FROM {schema}.take(held.queue_id, held.priority, idle) LOOP
            PERFORM {schema}.park(job, 'suspect');
        END LOOP;
    END LOOP;
    IF of_queue IS NOT NULL THEN
        PERFORM {schema}.wake(of_queue, true);
    END IF;
END
$body$;

-- Give leases back: what is still held under them can be claimed at once.
CREATE OR REPLACE FUNCTION {schema}.end_leases(p_leases bigint[]) RETURNS void
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    lease bigint;
BEGIN
    PERFORM FROM {schema}.leases WHERE id = ANY (p_leases) ORDER BY id FOR UPDATE;
    PERFORM {schema}.drop_claims(ARRAY (SELECT id FROM {schema}.claims WHERE lease_id = ANY (p_leases) ORDER BY id));
    FOREACH lease IN ARRAY p_leases LOOP
        PERFORM {schema}.end_lease(lease);
    END LOOP;
END
$body$;

-- By when leases must have ended so that they can be judged now, by hand. Now, where the queue is watched. Where it is
-- not, since no worker runs or the server was away, who lives must first have the time to report: null, and who asks again
-- after a lease is told the time of the first question. Not so where this server has been there for two leases, and all
-- that ended did so long ago: who lives would have reported. (The watch is empty after a crash, and on a standby that was
-- promoted. A worker that can't reach the server has stopped its jobs by itself.)
CREATE OR REPLACE FUNCTION {schema}.judged_until(p_queue integer, p_lease_seconds double precision,
    p_silent_seconds double precision)
RETURNS timestamptz
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $body$
DECLARE
    long_ago timestamptz := now() - greatest(p_silent_seconds, 3 * p_lease_seconds) * interval '1 second';
    asked_at timestamptz;
BEGIN
    IF {schema}.is_watched(p_queue, p_lease_seconds) THEN
        RETURN now();
    END IF;
    IF pg_postmaster_start_time() <= now() - 2 * p_lease_seconds * interval '1 second'
        AND EXISTS (
            SELECT
            FROM {schema}.watches
            WHERE queue_id = p_queue AND seen_at > '-infinity'
                AND seen_at <= now() - 2 * p_lease_seconds * interval '1 second')
        AND NOT EXISTS (
            SELECT
            FROM {schema}.leases
            WHERE queue_id = p_queue AND expires_at > long_ago AND NOT {schema}.runs(expires_at, lease_seconds))
    THEN
        RETURN long_ago;
    END IF;
    SELECT judging_from INTO asked_at
    FROM {schema}.watches
    WHERE queue_id = p_queue AND judging_from BETWEEN greatest(now() - interval '1 hour', pg_postmaster_start_time()) AND now();
    IF asked_at <= now() - p_lease_seconds * interval '1 second' THEN
        RETURN asked_at;
    END IF;
    IF asked_at IS NULL THEN
        INSERT INTO {schema}.watches AS watch (queue_id, since, seen_at, judging_from)
        VALUES (p_queue, now(), '-infinity', now())
        ON CONFLICT (queue_id) DO UPDATE SET judging_from = now();
    END IF;
    RETURN NULL;
END
$body$;

-- End leases that ran out by a time and under which something is held for so long; gives the ids of the jobs that go back.
-- A lease is judged whole: who has lost it lets go of all that it holds. Like rescue(), but by hand, and nobody is charged.
CREATE OR REPLACE FUNCTION {schema}.recover_stuck(p_queue integer, p_older_than_seconds double precision,
    p_ended_by timestamptz, p_limit integer)
RETURNS SETOF bigint
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $body$
DECLARE
    lost bigint;
    recovered integer := 0;
    part integer;
BEGIN
    FOR lost IN
        SELECT lease.id
        FROM {schema}.leases AS lease
        WHERE lease.queue_id = p_queue
            AND (lease.was_alone IS NOT NULL
                OR lease.expires_at <= p_ended_by
                OR (lease.expires_at > now() AND NOT {schema}.runs(lease.expires_at, lease.lease_seconds)))
            AND EXISTS (
                SELECT FROM {schema}.claims AS claim
                WHERE claim.lease_id = lease.id
                    AND claim.claimed_at <= now() - p_older_than_seconds * interval '1 second'
            )
        ORDER BY lease.id
        FOR UPDATE OF lease SKIP LOCKED
    LOOP
        UPDATE {schema}.leases SET was_alone = false WHERE id = lost AND was_alone IS NULL;
        RETURN QUERY SELECT back.id FROM {schema}.put_back_lease(lost, false, p_limit - recovered) AS back;
        GET DIAGNOSTICS part = ROW_COUNT;
        recovered := recovered + part;
        EXIT WHEN recovered >= p_limit;
    END LOOP;
END
$body$;
