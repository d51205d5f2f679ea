-- compatible-with: 1
-- What others call: jobs from any language, and the completion of a job within a transaction of its handler's own.
--
-- Errors that callers may want to tell apart have a code of their own (SQLSTATE) and a hint:
--   42704  there is no such queue                 22023  a field is out of its range, of the wrong type, or unknown
--   54000  a payload is over the limit            JQ001  the job's lease is lost: somebody else has it

-- One field of a job as text; raises where it is no text. Null where the job has none.
CREATE FUNCTION {schema}.text_field(p_job jsonb, p_field text, p_where text) RETURNS text
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
CREATE FUNCTION {schema}.number_field(p_job jsonb, p_field text, p_where text) RETURNS numeric
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
CREATE FUNCTION {schema}.moment_field(p_job jsonb, p_field text, p_where text) RETURNS timestamptz
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
CREATE FUNCTION {schema}.payload_field(p_job jsonb, p_where text) RETURNS bytea
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

-- Enqueue an array of objects, all or none; gives the ids in order. Fields have the names of the parameters of
-- enqueue(); bytes that are no JSON go into payload_base64, with their content_type. Within the caller's transaction:
-- workers that wait are told at its commit, and nobody else is.
CREATE FUNCTION {schema}.enqueue_many(queue text, jobs jsonb) RETURNS SETOF bigint
LANGUAGE plpgsql AS $body$
DECLARE
    known CONSTANT text[] := ARRAY ['name', 'payload', 'payload_base64', 'content_type', 'priority', 'delay_seconds',
        'run_at', 'expires_at', 'message_group', 'deduplication_key', 'deduplication_window_seconds', 'headers'];
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
    END LOOP;
    RETURN QUERY SELECT {schema}.put(to_queue, payloads, names, priorities, content_types, all_headers, expiries, starts,
        delays, groups, keys, windows);
    PERFORM pg_notify('headrace', {schema_literal} || '/' || to_queue)
    WHERE EXISTS (SELECT FROM {schema}.waiters WHERE waiters.queue_id = to_queue);
END
$body$;
COMMENT ON FUNCTION {schema}.enqueue_many IS 'Enqueue an array of jobs, all or none; gives their ids in order.';

-- Enqueue one job; gives its id, or that of the job which has its deduplication key.
CREATE FUNCTION {schema}.enqueue(queue text, name text, payload jsonb DEFAULT 'null', priority integer DEFAULT 0,
    delay_seconds double precision DEFAULT 0, run_at timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
    message_group text DEFAULT NULL, deduplication_key text DEFAULT NULL,
    deduplication_window_seconds double precision DEFAULT NULL, headers jsonb DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql AS $body$
BEGIN
    RETURN {schema}.enqueue_many(queue, jsonb_build_array(jsonb_build_object(
        'name', name, 'payload', payload, 'priority', priority, 'delay_seconds', delay_seconds, 'run_at', run_at,
        'expires_at', expires_at, 'message_group', message_group, 'deduplication_key', deduplication_key,
        'deduplication_window_seconds', deduplication_window_seconds, 'headers', headers)));
END
$body$;
COMMENT ON FUNCTION {schema}.enqueue IS 'Enqueue a job; gives its id.';

-- Complete a job within the transaction of its handler's own: both happen, or neither. Raises JQ001 where the job is not
-- held under this lease any more.
--
-- That transaction may stay open for long, so nothing is locked here that others wait for: neither the lease nor the
-- claim nor the group, only the job's row (and its deduplication key). Everybody else skips a locked row or works
-- around it, and who has deleted it decides what becomes of the job. forget() does the rest, afterwards.
CREATE FUNCTION {schema}.complete_in_transaction(p_lease bigint, p_claim bigint, p_id bigint) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $body$
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
        OR NOT EXISTS (SELECT FROM {schema}.leases WHERE id = p_lease)
    THEN
        RAISE EXCEPTION 'the lease on job % is lost', p_id
            USING ERRCODE = 'JQ001', HINT = 'Roll back: somebody else has the job, or it is settled.';
    END IF;
    INSERT INTO {schema}.finished_jobs (id, enqueued_at, run_at, expires_at, queue_id, attempt, priority, deaths, suspect,
        name, payload, content_type, headers, group_key, deduplication_key, failures, outcome)
    SELECT job.id, job.enqueued_at, job.run_at, job.expires_at, job.queue_id, job.attempt, job.priority, job.deaths,
        job.suspect, job.name, job.payload, job.content_type, job.headers, job.group_key, job.deduplication_key,
        job.failures, 'completed'
    FROM {schema}.queues
    WHERE queues.id = job.queue_id AND queues.completed_retention_seconds > 0;
    IF job.deduplication_key IS NOT NULL THEN
        PERFORM {schema}.after_end(job.queue_id, NULL, ARRAY [job.deduplication_key], ARRAY [job.id]);
    END IF;
END
$body$;

-- Of jobs completed in transactions: let go of those whose transaction was not rolled back, and let their groups
-- advance; gives their ids. Where one is still open (its handler should have ended it), it decides by itself: nobody can
-- claim the job before. Those that were rolled back stay held.
CREATE FUNCTION {schema}.forget(p_queue integer, p_lease bigint, p_claims bigint[], p_ids bigint[], p_groups text[])
RETURNS SETOF bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $body$
DECLARE
    rolled_back bigint[];
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
    RETURN QUERY
        SELECT unnest(mine.job_ids)
        FROM {schema}.let_go(p_lease, p_claims,
            ARRAY (SELECT number FROM unnest(p_ids) AS number WHERE number <> ALL (rolled_back))) AS mine;
    IF p_groups <> '{}' THEN
        PERFORM {schema}.after_end(p_queue, p_groups, NULL);
    END IF;
END
$body$;
