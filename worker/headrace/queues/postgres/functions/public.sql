-- What others call, and query: SemVer holds here, and nowhere else in the schema.
--
-- Errors that callers may want to tell apart have a code of their own (SQLSTATE) and a hint:
--   42704  there is no such queue                 22023  a field is out of its range, of the wrong type, or unknown
--   54000  a payload is over the limit            JQ001  the job's lease is lost: somebody else has it

-- One field of a job as text; raises where it is no text. Null where the job has none.
CREATE OR REPLACE FUNCTION {schema}.text_field(p_job jsonb, p_field text, p_where text) RETURNS text
LANGUAGE plpgsql STABLE AS $body$
BEGIN
    IF p_job -> p_field IS NULL OR p_job -> p_field = 'null' THEN
        RETURN NULL;
    END IF;
    IF jsonb_typeof(p_job -> p_field) <> 'string' THEN
        RAISE EXCEPTION '%: must be a text, not %', p_where || p_field, left((p_job -> p_field)::text, 40)
            USING ERRCODE = '22023', HINT = format('Put it in double quotes, or leave %s out.', p_field);
    END IF;
    RETURN p_job ->> p_field;
END
$body$;

-- One field of a job as a number.
CREATE OR REPLACE FUNCTION {schema}.number_field(p_job jsonb, p_field text, p_where text) RETURNS numeric
LANGUAGE plpgsql STABLE AS $body$
BEGIN
    IF p_job -> p_field IS NULL OR p_job -> p_field = 'null' THEN
        RETURN NULL;
    END IF;
    IF jsonb_typeof(p_job -> p_field) <> 'number' THEN
        RAISE EXCEPTION '%: must be a number, not %', p_where || p_field, left((p_job -> p_field)::text, 40)
            USING ERRCODE = '22023', HINT = format('Give a finite number without quotes, or leave %s out.', p_field);
    END IF;
    RETURN p_job -> p_field;
END
$body$;

-- One field of a job as a moment.
CREATE OR REPLACE FUNCTION {schema}.moment_field(p_job jsonb, p_field text, p_where text) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $body$
DECLARE
    written text;
BEGIN
    IF p_job -> p_field IS NULL OR p_job -> p_field = 'null' THEN
        RETURN NULL;
    END IF;
    written := {schema}.text_field(p_job, p_field, p_where);
    BEGIN
        IF written !~ '^[0-8]\d{3}-.*([Zz]|[+-]\d\d(:?\d\d){0,2})$' THEN
            RAISE invalid_datetime_format;
        END IF;
        RETURN written::timestamptz;
    EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR invalid_time_zone_displacement_value THEN
        RAISE EXCEPTION '%: % is no moment', p_where || p_field, left(written, 40)
            USING ERRCODE = '22023', HINT = 'Write it with its time zone, before the year 9000, as in 2031-05-17T08:30:00Z.';
    END;
END
$body$;

-- The payload of a job, encoded.
CREATE OR REPLACE FUNCTION {schema}.payload_field(p_job jsonb, p_where text) RETURNS bytea
LANGUAGE plpgsql STABLE AS $body$
DECLARE
    limit_bytes CONSTANT integer := 1048576;
    payload bytea;
BEGIN
    IF p_job ? 'payload_base64' THEN
        IF p_job ? 'payload' THEN
            RAISE EXCEPTION '%payload and payload_base64: give one of them', p_where
                USING ERRCODE = '22023', HINT = 'JSON goes into payload, other bytes into payload_base64.';
        END IF;
        BEGIN
            payload := decode(coalesce({schema}.text_field(p_job, 'payload_base64', p_where), ''), 'base64');
        EXCEPTION WHEN invalid_parameter_value THEN
            RAISE EXCEPTION '%payload_base64: no base64: %', p_where, SQLERRM
                USING ERRCODE = '22023', HINT = 'Encode the bytes as in RFC 4648, with padding.';
        END;
    ELSE
        IF p_job ? 'content_type' THEN
            RAISE EXCEPTION '%content_type: is for payload_base64', p_where
                USING ERRCODE = '22023', HINT = 'A payload is JSON; other bytes go into payload_base64.';
        END IF;
        payload := convert_to(coalesce((p_job -> 'payload')::text, 'null'), 'UTF8');
    END IF;
    IF octet_length(payload) > limit_bytes THEN
        RAISE EXCEPTION '%payload of % bytes: the limit is %', p_where, octet_length(payload), limit_bytes
            USING ERRCODE = '54000', HINT = 'Store the data elsewhere and enqueue its address.';
    END IF;
    RETURN payload;
END
$body$;

-- Enqueue an array of objects, all or none; gives the ids in order, and which are new. Fields have the names of the
-- parameters of enqueue(); bytes that are no JSON go into payload_base64, with their content_type. Within the caller's
-- transaction: workers that wait are told at its commit, and nobody else is. With notify => false they find the jobs by
-- looking: PREPARE TRANSACTION is refused after a notification.
CREATE OR REPLACE FUNCTION {schema}.enqueue_many(queue text, jobs jsonb, notify boolean DEFAULT true)
RETURNS TABLE (id bigint, is_new boolean)
LANGUAGE plpgsql SET jit = off AS $body$
DECLARE
    known CONSTANT text[] := ARRAY ['name', 'payload', 'payload_base64', 'content_type', 'priority', 'delay_seconds',
        'run_at', 'expires_at', 'message_group', 'deduplication_key', 'deduplication_window_seconds', 'headers',
        'extra'];
    to_queue integer;
    job jsonb;
    place integer := 0;
    prefix text := '';
    number numeric;
    written text;
    field text;
    payloads bytea[] := '{}';
    names text[] := '{}';
    priorities smallint[] := '{}';
    content_types text[] := '{}';
    all_headers jsonb[] := '{}';
    expiries timestamptz[] := '{}';
    starts timestamptz[] := '{}';
    delays double precision[] := '{}';
    groups text[] := '{}';
    keys text[] := '{}';
    windows double precision[] := '{}';
    extras jsonb[] := '{}';
BEGIN
    SELECT queues.id INTO to_queue FROM {schema}.queues WHERE queues.name = enqueue_many.queue;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'queue "%" does not exist in schema %', left(queue, 80), {schema_literal}
            USING ERRCODE = '42704',
                HINT = format('Apply its JobQueue, or run `headrace migrate --queue %s`.', left(queue, 80));
    END IF;
    IF jobs IS NULL OR jsonb_typeof(jobs) <> 'array' THEN
        RAISE EXCEPTION 'jobs: must be an array of objects, not %', coalesce(left(jobs::text, 40), 'null')
            USING ERRCODE = '22023', HINT = 'Write [{"name": "resize", "payload": {"picture": 17}}].';
    END IF;
    IF jobs = '[]' THEN
        RETURN;
    END IF;
    FOR job IN SELECT jsonb_array_elements(jobs) LOOP
        place := place + 1;
        IF jsonb_array_length(jobs) > 1 THEN
            prefix := format('job %s: ', place);
        END IF;
        IF jsonb_typeof(job) <> 'object' THEN
            RAISE EXCEPTION '%must be an object, not %', prefix, left(job::text, 40)
                USING ERRCODE = '22023', HINT = 'Write [{"name": "resize", "payload": {"picture": 17}}].';
        END IF;
        IF job - known <> '{}' THEN
            SELECT jsonb_object_keys(job - known) INTO field LIMIT 1;
            RAISE EXCEPTION '%unknown field "%"', prefix, left(field, 40)
                USING ERRCODE = '22023', HINT = format('A job has the fields %s.', array_to_string(known, ', '));
        END IF;
        payloads := payloads || {schema}.payload_field(job, prefix);

        written := coalesce({schema}.text_field(job, 'name', prefix), '');
        IF length(written) > 255 OR written ~ '[\x01-\x1f\x7f]' THEN
            RAISE EXCEPTION '%name: at most 255 characters, none of them a control character', prefix
                USING ERRCODE = '22023', HINT = 'The name is what a handler is declared with.';
        END IF;
        names := names || written;

        number := coalesce(CASE WHEN job ? 'priority' THEN {schema}.number_field(job, 'priority', prefix) END, 0);
        IF number <> trunc(number) OR number NOT BETWEEN 0 AND 10 THEN
            RAISE EXCEPTION '%priority %: must be a whole number from 0 to 10', prefix, number
                USING ERRCODE = '22023', HINT = 'Higher comes first; the default is 0.';
        END IF;
        priorities := priorities || number::smallint;

        written := CASE WHEN job ? 'content_type' THEN {schema}.text_field(job, 'content_type', prefix) END;
        IF written ~ '[\x01-\x1f\x7f]' THEN
            RAISE EXCEPTION '%content_type: must have no control character', prefix
                USING ERRCODE = '22023', HINT = 'Write application/octet-stream, image/png, …';
        END IF;
        content_types := content_types || nullif(written, 'application/json');

        all_headers := all_headers || nullif(nullif(job -> 'headers', 'null'), '{}');
        IF all_headers[place] IS NOT NULL AND (
            jsonb_typeof(all_headers[place]) <> 'object'
            OR jsonb_path_exists(all_headers[place], 'strict $.* ? (@.type() != "string")'))
        THEN
            RAISE EXCEPTION '%headers: must be an object whose values are texts', prefix
                USING ERRCODE = '22023', HINT = 'Write {"traceparent": "00-…"}; the payload takes anything else.';
        END IF;

        expiries := expiries || CASE WHEN job ? 'expires_at' THEN {schema}.moment_field(job, 'expires_at', prefix) END;
        starts := starts || CASE WHEN job ? 'run_at' THEN {schema}.moment_field(job, 'run_at', prefix) END;
        number := coalesce(
            CASE WHEN job ? 'delay_seconds' THEN {schema}.number_field(job, 'delay_seconds', prefix) END, 0);
        IF number NOT BETWEEN 0 AND 1e10 THEN
            RAISE EXCEPTION '%delay_seconds %: must be 0 or more', prefix, left(number::text, 40)
                USING ERRCODE = '22023', HINT = 'For a moment use run_at.';
        END IF;
        IF number > 0 AND starts[place] IS NOT NULL THEN
            RAISE EXCEPTION '%delay_seconds and run_at: give one of them', prefix
                USING ERRCODE = '22023', HINT = 'delay_seconds counts from the start of the transaction.';
        END IF;
        delays := delays || number::double precision;

        FOREACH field IN ARRAY ARRAY ['message_group', 'deduplication_key'] LOOP
            written := CASE WHEN job ? field THEN {schema}.text_field(job, field, prefix) END;
            IF length(written) NOT BETWEEN 1 AND 128 OR written ~ '[\x01-\x1f\x7f]' THEN
                RAISE EXCEPTION '%: 1 to 128 characters, none of them a control character', prefix || field
                    USING ERRCODE = '22023', HINT = 'Leave it out, or give null, for none.';
            END IF;
            IF field = 'message_group' THEN
                groups := groups || written;
            ELSE
                keys := keys || written;
            END IF;
        END LOOP;

        number := CASE WHEN job ? 'deduplication_window_seconds'
            THEN {schema}.number_field(job, 'deduplication_window_seconds', prefix) END;
        IF number IS NOT NULL AND (number <= 0 OR number > 1e10 OR keys[place] IS NULL) THEN
            RAISE EXCEPTION '%deduplication_window_seconds %: must be more than 0, beside a deduplication_key',
                    prefix, left(number::text, 40)
                USING ERRCODE = '22023', HINT = 'Without it the key is taken for as long as the job is unfinished.';
        END IF;
        windows := windows || number::double precision;

        extras := extras || nullif(nullif(job -> 'extra', 'null'), '{}');
        IF jsonb_typeof(extras[place]) <> 'object' THEN
            RAISE EXCEPTION '%extra: must be an object', prefix
                USING ERRCODE = '22023', HINT = 'It has fields of the envelope that only newer releases know.';
        END IF;
    END LOOP;
    RETURN QUERY
        SELECT put.id, put.is_new
        FROM {schema}.put(to_queue, payloads, names, priorities, content_types, all_headers, expiries, starts, delays,
            groups, keys, windows, extras) AS put;
    IF notify THEN
        PERFORM {schema}.wake(to_queue);
    END IF;
END
$body$;
COMMENT ON FUNCTION {schema}.enqueue_many IS 'Enqueue an array of jobs, all or none; gives their ids in order.';

-- Enqueue one job; gives its id, or that of the job which has its deduplication key.
CREATE OR REPLACE FUNCTION {schema}.enqueue(queue text, name text, payload jsonb DEFAULT 'null', priority integer DEFAULT 0,
    delay_seconds double precision DEFAULT 0, run_at timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
    message_group text DEFAULT NULL, deduplication_key text DEFAULT NULL,
    deduplication_window_seconds double precision DEFAULT NULL, headers jsonb DEFAULT NULL,
    notify boolean DEFAULT true)
RETURNS bigint
LANGUAGE plpgsql SET jit = off AS $body$
BEGIN
    RETURN (SELECT done.id FROM {schema}.enqueue_many(queue, jsonb_build_array(jsonb_build_object(
        'name', name, 'payload', payload, 'priority', priority, 'delay_seconds', delay_seconds, 'run_at', run_at,
        'expires_at', expires_at, 'message_group', message_group, 'deduplication_key', deduplication_key,
        'deduplication_window_seconds', deduplication_window_seconds, 'headers', headers)), notify) AS done);
END
$body$;
COMMENT ON FUNCTION {schema}.enqueue IS 'Enqueue a job; gives its id.';

-- A payload as JSON; null where it is none (or none that jsonb can hold).
CREATE OR REPLACE FUNCTION {schema}.as_json(p_payload bytea) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT AS $body$
BEGIN
    RETURN convert_from(p_payload, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$body$;

-- Found by (queue, priority, id) in as many index probes as there are priorities; whoever gives no priority reads a
-- queue's whole index. What nobody asks for, such as the payload as JSON, costs nothing.
CREATE OR REPLACE VIEW {schema}.background_jobs AS
    SELECT job.id, queue.name AS queue, job.name, CASE WHEN held.id IS NULL THEN 'ready' ELSE 'running' END AS status,
        job.priority, (job.attempt + CASE WHEN held.id IS NULL THEN 0 ELSE 1 END)::smallint AS attempt,
        queue.max_retries, job.group_key AS message_group, job.deduplication_key,
        CASE WHEN coalesce(job.content_type, 'application/json') LIKE '%json' THEN {schema}.as_json(job.payload) END
            AS payload,
        job.payload AS payload_bytes, coalesce(job.content_type, 'application/json') AS content_type,
        coalesce(job.headers, '{}') AS headers, job.enqueued_at, coalesce(job.run_at, job.enqueued_at) AS run_at,
        job.expires_at, held.leased_at, held.lease_expires_at, held.worker,
        job.failures -> -1 ->> 'error' AS last_error, coalesce(job.failures, '[]') AS failures, NULL::text AS reason,
        NULL::timestamptz AS ended_at, progress.told -> job.id::text AS progress,
        coalesce(job.extra, '{}') AS extra
    FROM {schema}.jobs AS job
        JOIN {schema}.queues AS queue ON queue.id = job.queue_id
        LEFT JOIN (
            SELECT claim.queue_id, unnest(claim.job_ids) AS id, claim.claimed_at AS leased_at,
                lease.expires_at AS lease_expires_at, lease.holder AS worker, claim.id AS claim_id, claim.lease_id
            FROM {schema}.claims AS claim JOIN {schema}.leases AS lease ON lease.id = claim.lease_id
        ) AS held ON held.queue_id = job.queue_id AND held.id = job.id
        LEFT JOIN {schema}.progress AS progress
            ON progress.lease_id = held.lease_id AND progress.claim_id = held.claim_id
    UNION ALL
    SELECT job.id, queue.name, job.name,
        CASE
            WHEN job.state = 'behind' THEN 'blocked'
            -- Nobody has looked at it yet; somebody who did would find a head of its group.
            WHEN job.state = 'arrived' AND (
                (SELECT head.head_id FROM {schema}.group_heads AS head
                    WHERE head.queue_id = job.queue_id AND head.group_key = job.group_key LIMIT 1) IS NOT NULL
                OR EXISTS (SELECT FROM {schema}.parked_jobs AS head
                    WHERE head.queue_id = job.queue_id AND head.group_key = job.group_key AND head.state IN ('arrived', 'behind')
                        AND head.id < job.id)
            ) THEN 'blocked'
            WHEN job.run_at > now() THEN 'delayed'
            WHEN job.state = 'suspect' THEN 'suspect'
            ELSE 'ready'
        END,
        job.priority, job.attempt, queue.max_retries, job.group_key, job.deduplication_key,
        CASE WHEN coalesce(job.content_type, 'application/json') LIKE '%json' THEN {schema}.as_json(job.payload) END,
        job.payload, coalesce(job.content_type, 'application/json'), coalesce(job.headers, '{}'), job.enqueued_at,
        coalesce(job.run_at, job.enqueued_at), job.expires_at, NULL, NULL, NULL, job.failures -> -1 ->> 'error',
        coalesce(job.failures, '[]'), NULL, NULL, NULL, coalesce(job.extra, '{}')
    FROM {schema}.parked_jobs AS job JOIN {schema}.queues AS queue ON queue.id = job.queue_id
    UNION ALL
    SELECT job.id, queue.name, job.name, 'dead', job.priority, job.attempt, queue.max_retries, job.group_key,
        job.deduplication_key,
        CASE WHEN coalesce(job.content_type, 'application/json') LIKE '%json' THEN {schema}.as_json(job.payload) END,
        job.payload, coalesce(job.content_type, 'application/json'), coalesce(job.headers, '{}'), job.enqueued_at,
        coalesce(job.run_at, job.enqueued_at), job.expires_at, NULL, NULL, NULL,
        coalesce(job.error, job.failures -> -1 ->> 'error'), coalesce(job.failures, '[]'), job.reason, job.dead_at, NULL,
        coalesce(job.extra, '{}')
    FROM {schema}.dead_jobs AS job JOIN {schema}.queues AS queue ON queue.id = job.queue_id
    UNION ALL
    SELECT job.id, queue.name, job.name, job.outcome, job.priority, job.attempt, queue.max_retries, job.group_key,
        job.deduplication_key,
        CASE WHEN coalesce(job.content_type, 'application/json') LIKE '%json' THEN {schema}.as_json(job.payload) END,
        job.payload, coalesce(job.content_type, 'application/json'), coalesce(job.headers, '{}'), job.enqueued_at,
        coalesce(job.run_at, job.enqueued_at), job.expires_at, NULL, NULL, NULL, job.failures -> -1 ->> 'error',
        coalesce(job.failures, '[]'), NULL, job.finished_at, NULL, coalesce(job.extra, '{}')
    FROM {schema}.finished_jobs AS job JOIN {schema}.queues AS queue ON queue.id = job.queue_id;
COMMENT ON VIEW {schema}.background_jobs IS 'Every job of every queue, wherever it stands. To read; functions change jobs.';
COMMENT ON COLUMN {schema}.background_jobs.status IS
    'ready, running, delayed, blocked (behind the head of its group), suspect (a worker died with it: it is claimed alone), dead, completed, cancelled';
COMMENT ON COLUMN {schema}.background_jobs.attempt IS 'The attempt under way; else how many have failed.';
COMMENT ON COLUMN {schema}.background_jobs.payload IS 'Null where payload_bytes are no JSON.';
COMMENT ON COLUMN {schema}.background_jobs.lease_expires_at IS 'In the past: its worker gives no sign of life.';
COMMENT ON COLUMN {schema}.background_jobs.progress IS 'How far it is (fraction, message), where it runs and its handler says so.';
COMMENT ON COLUMN {schema}.background_jobs.extra IS 'Fields of the envelope that only the code which enqueued it knows.';
COMMENT ON COLUMN {schema}.background_jobs.reason IS 'Why it is dead.';
COMMENT ON COLUMN {schema}.background_jobs.ended_at IS
    'When it died, was completed or cancelled. Finished jobs are kept where their queue has a history only.';

-- Put back what is stuck. Where no worker runs and one has been silent for less than a minute, or the server came up just
-- now, who lives must first have the time to report: then the first call puts nothing back, and says when to call again.
CREATE OR REPLACE FUNCTION {schema}.recover_stuck_background_jobs(minutes integer) RETURNS SETOF {schema}.background_jobs
LANGUAGE plpgsql SET jit = off AS $body$
DECLARE
    lease_seconds CONSTANT double precision := 20;
    queue record;
    ended_by timestamptz;
    ids bigint[];
BEGIN
    IF minutes IS NULL OR minutes < 0 THEN
        RAISE EXCEPTION 'minutes %: must be 0 or more', coalesce(minutes::text, 'null')
            USING ERRCODE = '22023', HINT = 'Jobs that a lost worker has held for at least so long are put back.';
    END IF;
    FOR queue IN SELECT queues.id, queues.name FROM {schema}.queues ORDER BY queues.name LOOP
        CONTINUE WHEN NOT EXISTS (
            SELECT FROM {schema}.leases AS lease
            WHERE lease.queue_id = queue.id AND NOT {schema}.runs(lease.expires_at, lease.lease_seconds));
        ended_by := {schema}.judged_until(queue.id, lease_seconds, minutes * 60.0::double precision);
        IF ended_by IS NULL THEN
            RAISE NOTICE 'no worker looks after queue "%": ask again in % s, workers that live report meanwhile',
                queue.name, lease_seconds;
            CONTINUE;
        END IF;
        ids := ARRAY (SELECT {schema}.recover_stuck(queue.id, minutes * 60.0::double precision, ended_by, 1000000));
        CONTINUE WHEN ids = '{}';
        RETURN QUERY
            SELECT *
            FROM {schema}.background_jobs AS job
            WHERE job.queue = queue.name AND job.id = ANY (ids)
                AND job.priority = ANY (ARRAY [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]::smallint[])
            ORDER BY job.id;
    END LOOP;
END
$body$;
COMMENT ON FUNCTION {schema}.recover_stuck_background_jobs IS
    'Put back what workers without a sign of life have held for so many minutes, in every queue; gives those jobs.';
