-- Enqueueing.

-- The channel on which the workers of a queue are told of new jobs. Of the queue's own, so that nobody hears of others'.
CREATE OR REPLACE FUNCTION {schema}.channel(p_queue integer) RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT 'headrace_' || to_hex(hashtextextended({schema_literal}, p_queue));
END;

-- Tell workers that wait of new jobs; whether it does. A hint: where the server's queue of notifications is half full,
-- since somebody listens and does not read, none is sent, so that no commit fails of it.
--
-- Commits that notify come one after the other, each after the flush of the one before. So of those that tell with their
-- jobs (p_alone) one at a time does, and the others, which would wait, do not.
CREATE OR REPLACE FUNCTION {schema}.wake(p_queue integer, p_alone boolean DEFAULT false) RETURNS boolean
LANGUAGE plpgsql SET jit = off AS $body$
BEGIN
    IF EXISTS (SELECT FROM {schema}.waiters WHERE queue_id = p_queue) AND pg_notification_queue_usage() < 0.5
        AND (NOT p_alone OR pg_try_advisory_xact_lock(hashtextextended('headrace.dev/wake', 0)))
    THEN
        PERFORM pg_notify({schema}.channel(p_queue), '');
        RETURN true;
    END IF;
    RETURN false;
END
$body$;

-- Enqueue whatever a job may ask for; gives the ids in order: that of the job already there where a deduplication key is
-- taken, which is not new. An array may be empty: then every job has the default; one name alone is the name of all. Gives
-- nothing where there is no such queue.
CREATE OR REPLACE FUNCTION {schema}.put(p_queue integer, p_payload bytea[], p_name text[], p_priority smallint[],
    p_content_type text[], p_headers jsonb[], p_expires_at timestamptz[], p_run_at timestamptz[],
    p_delay_seconds double precision[], p_group text[], p_key text[], p_window_seconds double precision[],
    p_extra jsonb[])
RETURNS TABLE (id bigint, is_new boolean)
LANGUAGE plpgsql SET jit = off AS $body$
#variable_conflict use_column
DECLARE
    retention interval;
    ids bigint[];
    fresh boolean[] := array_fill(true, ARRAY [cardinality(p_payload)]);
    place integer;
    taken_by bigint;
BEGIN
    SELECT queue.message_retention_seconds * interval '1 second' INTO retention
    FROM {schema}.queues AS queue
    WHERE queue.id = p_queue;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    ids := ARRAY (SELECT nextval('{schema_in_text}.jobs_id_seq')
        FROM generate_series(1, cardinality(p_payload)));
    -- In one order, so that two producers with the same keys wait for each other and don't lock each other out.
    FOR place IN
        SELECT number FROM generate_subscripts(p_key, 1) AS number WHERE p_key[number] IS NOT NULL ORDER BY p_key[number], number
    LOOP
        LOOP
            DELETE FROM {schema}.deduplication_keys
            WHERE queue_id = p_queue AND key = p_key[place] AND finished AND kept_until <= now();
            INSERT INTO {schema}.deduplication_keys (queue_id, key, job_id, kept_until)
            VALUES (p_queue, p_key[place], ids[place], now() + p_window_seconds[place] * interval '1 second')
            ON CONFLICT DO NOTHING;
            EXIT WHEN FOUND;
            SELECT job_id INTO taken_by FROM {schema}.deduplication_keys WHERE queue_id = p_queue AND key = p_key[place];
            IF FOUND THEN
                ids[place] := taken_by;
                fresh[place] := false;
                EXIT;
            END IF;
        END LOOP;
    END LOOP;
    WITH raw AS (
        SELECT raw.*,
            coalesce(raw.at, CASE WHEN raw.delay_seconds > 0 THEN now() + raw.delay_seconds * interval '1 second' END)
                AS starts_at
        FROM unnest(p_payload, p_name, p_priority, p_content_type, p_headers, p_expires_at, p_run_at, p_delay_seconds,
                p_group, p_key, p_extra, ids, fresh)
            AS raw (payload, name, priority, content_type, headers, expires_at, at, delay_seconds, group_key,
                deduplication_key, extra, id, is_new)
    ), parked AS (
        INSERT INTO {schema}.parked_jobs (id, run_at, expires_at, queue_id, priority, name, payload, content_type,
            headers, group_key, deduplication_key, extra, state)
        SELECT id, starts_at, coalesce(expires_at, coalesce(starts_at, now()) + retention), p_queue,
            coalesce(priority, 0), coalesce(name, p_name[1], ''), payload, content_type, headers, group_key,
            deduplication_key, extra,
            CASE WHEN group_key IS NULL THEN 'delayed' ELSE 'arrived' END::{schema}.parked_state
        FROM raw
        WHERE is_new AND (group_key IS NOT NULL OR starts_at > now())
    )
    INSERT INTO {schema}.jobs (id, run_at, expires_at, queue_id, priority, name, payload, content_type, headers,
        deduplication_key, extra)
    SELECT id, starts_at, coalesce(expires_at, coalesce(starts_at, now()) + retention), p_queue, coalesce(priority, 0),
        coalesce(name, p_name[1], ''), payload, content_type, headers, deduplication_key, extra
    FROM raw
    WHERE is_new AND group_key IS NULL AND (starts_at IS NULL OR starts_at <= now());
    -- A removal locks the tables, so that we have waited for it, and removes what it sees.
    IF NOT EXISTS (SELECT FROM {schema}.queues AS queue WHERE queue.id = p_queue) THEN
        RAISE EXCEPTION 'the queue was removed just now' USING ERRCODE = '42704';
    END IF;
    RETURN QUERY SELECT unnest(ids), unnest(fresh);
END
$body$;
