-- compatible-with: 1
-- What people who know a job table in SQL look for: one relation of all jobs, to query, and a function that puts back
-- what is stuck. And what they do to jobs by hand.

-- A payload as JSON; null where it is none (or none that jsonb can hold).
CREATE FUNCTION {schema}.as_json(p_payload bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT AS $body$
BEGIN
    RETURN convert_from(p_payload, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$body$;

-- Found by (queue, priority, id) in as many index probes as there are priorities; whoever gives no priority reads a
-- queue's whole index. What nobody asks for, such as the payload as JSON, costs nothing.
CREATE VIEW {schema}.background_jobs AS
    SELECT job.id, queue.name AS queue, job.name, CASE WHEN held.id IS NULL THEN 'ready' ELSE 'running' END AS status,
        job.priority, (job.attempt + CASE WHEN held.id IS NULL THEN 0 ELSE 1 END)::smallint AS attempt,
        queue.max_retries, job.group_key AS message_group, job.deduplication_key,
        CASE WHEN coalesce(job.content_type, 'application/json') LIKE '%json' THEN {schema}.as_json(job.payload) END
            AS payload,
        job.payload AS payload_bytes, coalesce(job.content_type, 'application/json') AS content_type,
        coalesce(job.headers, '{}') AS headers, job.enqueued_at, coalesce(job.run_at, job.enqueued_at) AS run_at,
        job.expires_at, held.leased_at, held.lease_expires_at, held.worker,
        job.failures -> -1 ->> 'error' AS last_error, coalesce(job.failures, '[]') AS failures, NULL::text AS reason,
        NULL::timestamptz AS ended_at, held.progress -> job.id::text AS progress
    FROM {schema}.jobs AS job
        JOIN {schema}.queues AS queue ON queue.id = job.queue_id
        LEFT JOIN (
            SELECT claim.queue_id, unnest(claim.job_ids) AS id, claim.claimed_at AS leased_at,
                lease.expires_at AS lease_expires_at, lease.holder AS worker, claim.progress
            FROM {schema}.claims AS claim JOIN {schema}.leases AS lease ON lease.id = claim.lease_id
        ) AS held ON held.queue_id = job.queue_id AND held.id = job.id
    UNION ALL
    SELECT job.id, queue.name, job.name,
        CASE
            WHEN job.state = 3 THEN 'blocked'
            -- Nobody has looked at it yet; somebody who did would find a head of its group.
            WHEN job.state = 2 AND (
                EXISTS (SELECT FROM {schema}.jobs AS head
                    WHERE head.queue_id = job.queue_id AND head.group_key = job.group_key)
                OR EXISTS (SELECT FROM {schema}.parked_jobs AS head
                    WHERE head.queue_id = job.queue_id AND head.group_key = job.group_key AND head.state IN (1, 4))
                OR EXISTS (SELECT FROM {schema}.parked_jobs AS head
                    WHERE head.queue_id = job.queue_id AND head.group_key = job.group_key AND head.state IN (2, 3)
                        AND head.id < job.id)
            ) THEN 'blocked'
            WHEN job.run_at > now() THEN 'delayed'
            WHEN job.state = 4 THEN 'suspect'
            ELSE 'ready'
        END,
        job.priority, job.attempt, queue.max_retries, job.group_key, job.deduplication_key,
        CASE WHEN coalesce(job.content_type, 'application/json') LIKE '%json' THEN {schema}.as_json(job.payload) END,
        job.payload, coalesce(job.content_type, 'application/json'), coalesce(job.headers, '{}'), job.enqueued_at,
        coalesce(job.run_at, job.enqueued_at), job.expires_at, NULL, NULL, NULL, job.failures -> -1 ->> 'error',
        coalesce(job.failures, '[]'), NULL, NULL, NULL
    FROM {schema}.parked_jobs AS job JOIN {schema}.queues AS queue ON queue.id = job.queue_id
    UNION ALL
    SELECT job.id, queue.name, job.name, 'dead', job.priority, job.attempt, queue.max_retries, job.group_key,
        job.deduplication_key,
        CASE WHEN coalesce(job.content_type, 'application/json') LIKE '%json' THEN {schema}.as_json(job.payload) END,
        job.payload, coalesce(job.content_type, 'application/json'), coalesce(job.headers, '{}'), job.enqueued_at,
        coalesce(job.run_at, job.enqueued_at), job.expires_at, NULL, NULL, NULL,
        coalesce(job.error, job.failures -> -1 ->> 'error'), coalesce(job.failures, '[]'), job.reason, job.dead_at, NULL
    FROM {schema}.dead_jobs AS job JOIN {schema}.queues AS queue ON queue.id = job.queue_id
    UNION ALL
    SELECT job.id, queue.name, job.name, job.outcome, job.priority, job.attempt, queue.max_retries, job.group_key,
        job.deduplication_key,
        CASE WHEN coalesce(job.content_type, 'application/json') LIKE '%json' THEN {schema}.as_json(job.payload) END,
        job.payload, coalesce(job.content_type, 'application/json'), coalesce(job.headers, '{}'), job.enqueued_at,
        coalesce(job.run_at, job.enqueued_at), job.expires_at, NULL, NULL, NULL, job.failures -> -1 ->> 'error',
        coalesce(job.failures, '[]'), NULL, job.finished_at, NULL
    FROM {schema}.finished_jobs AS job JOIN {schema}.queues AS queue ON queue.id = job.queue_id;
COMMENT ON VIEW {schema}.background_jobs IS 'Every job of every queue, wherever it stands. To read; functions change jobs.';
COMMENT ON COLUMN {schema}.background_jobs.status IS
    'ready, running, delayed, blocked (behind the head of its group), suspect (a worker died with it: it is claimed alone), dead, completed, cancelled';
COMMENT ON COLUMN {schema}.background_jobs.attempt IS 'The attempt under way; else how many have failed.';
COMMENT ON COLUMN {schema}.background_jobs.payload IS 'Null where payload_bytes are no JSON.';
COMMENT ON COLUMN {schema}.background_jobs.lease_expires_at IS 'In the past: its worker gives no sign of life.';
COMMENT ON COLUMN {schema}.background_jobs.progress IS 'How far it is (fraction, message), where it runs and its handler says so.';
COMMENT ON COLUMN {schema}.background_jobs.reason IS 'Why it is dead.';
COMMENT ON COLUMN {schema}.background_jobs.ended_at IS
    'When it died, was completed or cancelled. Finished jobs are kept where their queue has a history only.';

-- End leases that ran out and under which something is held since then; gives the ids of the jobs that go back. A lease
-- is judged whole: who has lost it lets go of all that it holds. Like rescue(), but by hand, and nobody is charged. Where
-- the queue has not been watched, since no worker runs or the server was away, this waits for a lease and looks then: who
-- lives has reported by that time.
CREATE FUNCTION {schema}.recover_stuck(p_queue integer, p_older_than_seconds double precision,
    p_lease_seconds double precision, p_limit integer)
RETURNS SETOF bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $body$
DECLARE
    lost bigint;
BEGIN
    IF NOT {schema}.is_watched(p_queue, p_lease_seconds) AND EXISTS (
        SELECT
        FROM {schema}.leases AS lease JOIN {schema}.claims AS claim ON claim.lease_id = lease.id
        WHERE lease.queue_id = p_queue AND lease.expires_at <= now() AND lease.was_alone IS NULL
            AND claim.claimed_at <= now() - p_older_than_seconds * interval '1 second'
    ) THEN
        -- What was waited for one queue holds for all of a transaction: leases are judged by its beginning.
        PERFORM pg_sleep(p_lease_seconds - extract(epoch FROM clock_timestamp() - now())::double precision);
    END IF;
    FOR lost IN
        SELECT lease.id
        FROM {schema}.leases AS lease
        WHERE lease.queue_id = p_queue AND lease.expires_at <= now() AND EXISTS (
            SELECT FROM {schema}.claims AS claim
            WHERE claim.lease_id = lease.id AND claim.claimed_at <= now() - p_older_than_seconds * interval '1 second'
        )
        ORDER BY lease.id
        LIMIT p_limit
        FOR UPDATE OF lease SKIP LOCKED
    LOOP
        RETURN QUERY
            INSERT INTO {schema}.parked_jobs AS parked (id, enqueued_at, run_at, expires_at, queue_id, attempt, priority,
                deaths, suspect, name, payload, content_type, headers, group_key, deduplication_key, failures, state)
            SELECT id, enqueued_at, run_at, expires_at, queue_id, attempt, priority, deaths, true, name, payload,
                content_type, headers, group_key, deduplication_key, failures, 4
            FROM {schema}.take_lost(lost, false)
            RETURNING parked.id;
    END LOOP;
END
$body$;

CREATE FUNCTION {schema}.recover_stuck_background_jobs(minutes integer) RETURNS SETOF {schema}.background_jobs
LANGUAGE plpgsql AS $body$
DECLARE
    lease_seconds CONSTANT double precision := 20;
    stuck record;
BEGIN
    IF minutes IS NULL OR minutes < 0 THEN
        RAISE EXCEPTION 'minutes %: must be 0 or more', coalesce(minutes::text, 'null')
            USING ERRCODE = '22023', HINT = 'Jobs that a lost worker has held for at least so long are put back.';
    END IF;
    FOR stuck IN
        SELECT queue.name, ARRAY (
                SELECT {schema}.recover_stuck(queue.id, minutes * 60.0::double precision, lease_seconds, NULL)) AS ids
        FROM {schema}.queues AS queue
        ORDER BY queue.name
    LOOP
        CONTINUE WHEN stuck.ids = '{}';
        RETURN QUERY
            SELECT *
            FROM {schema}.background_jobs AS job
            WHERE job.queue = stuck.name AND job.id = ANY (stuck.ids)
                AND job.priority = ANY (ARRAY [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]::smallint[])
            ORDER BY job.id;
    END LOOP;
END
$body$;
COMMENT ON FUNCTION {schema}.recover_stuck_background_jobs IS
    'Put back what workers without a sign of life have held for so many minutes, in every queue; gives those jobs.';

-- Put dead jobs back under their ids, with all attempts before them; gives the ids. A job whose deduplication key another
-- has by now stays dead. A job of a group arrives anew: behind the head of its group, and in the order of ids.
CREATE FUNCTION {schema}.redrive(p_queue integer, p_ids bigint[]) RETURNS SETOF bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $body$
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
            content_type, headers, group_key, deduplication_key, failures, state)
        SELECT id, enqueued_at, now(), new_expires_at, queue_id, priority, name, payload, content_type, headers,
            group_key, deduplication_key, failures, 2
        FROM fresh
        WHERE group_key IS NOT NULL
    )
    INSERT INTO {schema}.jobs (id, enqueued_at, run_at, expires_at, queue_id, priority, name, payload, content_type,
        headers, deduplication_key, failures)
    SELECT id, enqueued_at, now(), new_expires_at, queue_id, priority, name, payload, content_type, headers,
        deduplication_key, failures
    FROM fresh
    WHERE group_key IS NULL;
    RETURN QUERY SELECT unnest(ids);
END
$body$;
