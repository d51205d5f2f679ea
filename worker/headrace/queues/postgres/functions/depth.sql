-- Counting. Ready is what could start now: due, unexpired, held by nobody who is known to live (what a dead worker held
-- must wake a pool that is at zero), and of each group at most its head.

-- Count queues by name. Whole indexes are counted and what is held is subtracted, so that no row of a long queue is
-- visited; and no further than a hundred thousand jobs of a kind (twenty thousand that have just arrived in groups):
-- is_lower_bound tells. Of the dead, there may be more than a hundred thousand without a word; and a count of them that
-- workers have shared will do if it is at most p_dead_seconds old.
--
-- The oldest is looked for among the first hundred of each priority: exact but for retried jobs, which stand at the head
-- with a later due time.
--
-- What has arrived is what has left, and what is there; what workers have done since their last heartbeat is not known, so
-- it may fall for a moment, but not below what was counted before.
CREATE OR REPLACE FUNCTION {schema}.depths(p_names text[], p_dead_seconds double precision DEFAULT 0)
RETURNS TABLE (name text, ready bigint, delayed bigint, blocked bigint, in_flight bigint,
    in_flight_seconds double precision, dead_lettered bigint, oldest_ready_age_seconds double precision,
    next_due_at timestamptz, paused boolean, is_lower_bound boolean, counted_at timestamptz, arrived bigint,
    completed bigint, failed bigint, dead_lettered_ever bigint, service_seconds double precision,
    service_histogram bigint[])
LANGUAGE plpgsql STABLE SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $body$
#variable_conflict use_column
DECLARE
    most CONSTANT bigint := 100000;
    most_arrivals CONSTANT bigint := 20000;
    queue record;
    held bigint[];
    late bigint;
    late_and_held bigint;
    live bigint;
    due bigint;
    late_due bigint;
    waiting bigint;
    suspects bigint;
    late_suspects bigint;
    waiting_suspects bigint;
    in_groups bigint;
    arrivals record;
    old record;
    totals record;
BEGIN
    FOR queue IN
        SELECT queues.id, queues.name, queues.paused OR queues.paused_by_hand AS paused
        FROM {schema}.queues
        WHERE queues.name = ANY (p_names)
    LOOP
        -- Held. A job completed in a transaction of its handler's own is gone, and for a moment still held.
        SELECT coalesce(array_agg(number), '{}'), count(*),
            coalesce(sum(extract(epoch FROM greatest(now() - claim.claimed_at, interval '0'))), 0)
        INTO held, in_flight, in_flight_seconds
        FROM {schema}.claims AS claim
            JOIN {schema}.leases AS lease
                ON lease.id = claim.lease_id AND lease.was_alone IS NULL
                    AND {schema}.runs(lease.expires_at, lease.lease_seconds),
            unnest(claim.job_ids) AS number
        WHERE claim.queue_id = queue.id;

        -- Those that can be claimed, or are.
        SELECT count(*) INTO late FROM (
            SELECT FROM {schema}.jobs AS job
            WHERE job.queue_id = queue.id AND job.expires_at <= now() AND job.expires_at IS NOT NULL AND job.attempt = 0
            LIMIT most) AS few;
        late_and_held := 0;
        IF late > 0 THEN
            SELECT count(*) INTO late_and_held
            FROM unnest(held) AS number,
                generate_series(0, 10) AS level (priority),
                LATERAL (
                    SELECT FROM {schema}.jobs AS job
                    WHERE job.queue_id = queue.id AND job.priority = level.priority::smallint AND job.id = number
                        AND job.expires_at <= now() AND job.attempt = 0
                    OFFSET 0
                ) AS found;
        END IF;
        SELECT count(*) INTO live FROM (
            SELECT FROM {schema}.jobs AS job WHERE job.queue_id = queue.id LIMIT most + in_flight + late) AS few;

        -- Those that wait.
        SELECT count(*) INTO due FROM (
            SELECT FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = queue.id AND job.state = 'delayed' AND job.run_at <= now() LIMIT most) AS few;
        SELECT count(*) INTO waiting FROM (
            SELECT FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = queue.id AND job.state = 'delayed' AND job.run_at > now() LIMIT most) AS few;
        SELECT count(*) INTO in_groups FROM (
            SELECT FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = queue.id AND job.state IN ('arrived', 'behind') LIMIT most) AS few;
        SELECT count(*) FILTER (WHERE few.run_at IS NULL OR few.run_at <= now()),
            count(*) FILTER (WHERE few.run_at > now())
        INTO suspects, waiting_suspects
        FROM (
            SELECT job.run_at FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = queue.id AND job.state = 'suspect' LIMIT most) AS few;
        SELECT count(*) FILTER (WHERE few.state = 'delayed' AND few.run_at <= now()),
            count(*) FILTER (WHERE few.state = 'suspect' AND (few.run_at IS NULL OR few.run_at <= now()))
        INTO late_due, late_suspects
        FROM (
            SELECT job.state, job.run_at FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = queue.id AND job.expires_at <= now() AND job.expires_at IS NOT NULL AND job.attempt = 0
            LIMIT most) AS few;

        -- Those of groups that nobody has looked at: of each group without a head, the first is one.
        SELECT coalesce(sum(one.count), 0)::bigint AS count,
            count(*) FILTER (WHERE one.is_head) AS heads,
            count(*) FILTER (WHERE one.is_head AND one.is_due) AS due,
            count(*) FILTER (WHERE one.is_head AND one.is_due AND one.is_unexpired) AS startable,
            min(one.since) FILTER (WHERE one.is_head AND one.is_due AND one.is_unexpired) AS since,
            min(one.since) FILTER (WHERE one.is_head AND NOT one.is_due) AS next_due_at
        INTO arrivals
        FROM (
            SELECT of_group.count, head.since, head.is_due, head.is_unexpired,
                (SELECT held.head_id
                    FROM {schema}.group_heads AS held
                    WHERE held.queue_id = queue.id AND held.group_key >= of_group.group_key
                        AND held.group_key <= of_group.group_key
                    ORDER BY held.group_key DESC
                    LIMIT 1) IS NULL AS is_head
            FROM (
                SELECT few.group_key, count(*) AS count, min(few.id) AS first_id
                FROM (
                    SELECT job.id, job.group_key FROM {schema}.parked_jobs AS job
                    WHERE job.queue_id = queue.id AND job.state = 'arrived'
                    ORDER BY job.enqueued_at LIMIT most_arrivals) AS few
                GROUP BY few.group_key
            ) AS of_group,
                LATERAL (
                    SELECT coalesce(job.run_at, job.enqueued_at) AS since,
                        job.run_at IS NULL OR job.run_at <= now() AS is_due,
                        job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now() AS is_unexpired
                    FROM {schema}.parked_jobs AS job
                    WHERE job.queue_id = queue.id AND job.id = of_group.first_id
                    OFFSET 0
                ) AS head
            -- Once for each, however often it is asked for above.
            OFFSET 0
        ) AS one;

        ready := greatest(0, live - in_flight - (late - late_and_held) + due - late_due + suspects - late_suspects
            + arrivals.startable);
        delayed := waiting + waiting_suspects + arrivals.heads - arrivals.due;
        blocked := greatest(0, in_groups - arrivals.heads);
        is_lower_bound := live >= most + in_flight + late OR greatest(late, due, waiting, suspects, in_groups) >= most
            OR arrivals.count >= most_arrivals;

        SELECT extract(epoch FROM now() - least(
            (SELECT min(head.due_at)
                FROM generate_series(0, 10) AS level (priority),
                    LATERAL (
                        SELECT coalesce(job.run_at, job.enqueued_at) AS due_at
                        FROM {schema}.jobs AS job
                        WHERE job.queue_id = queue.id AND job.priority = level.priority::smallint
                            AND job.id NOT IN (SELECT unnest(held))
                            AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now())
                        ORDER BY job.id
                        LIMIT 100
                    ) AS head),
            (SELECT job.run_at
                FROM {schema}.parked_jobs AS job
                WHERE job.queue_id = queue.id AND job.state = 'delayed' AND job.run_at <= now()
                    AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now())
                ORDER BY job.run_at LIMIT 1),
            (SELECT min(coalesce(job.run_at, job.enqueued_at))
                FROM {schema}.parked_jobs AS job
                WHERE job.queue_id = queue.id AND job.state = 'suspect' AND (job.run_at IS NULL OR job.run_at <= now())
                    AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now())),
            arrivals.since
        )) INTO oldest_ready_age_seconds;
        oldest_ready_age_seconds := greatest(0, oldest_ready_age_seconds);
        next_due_at := least({schema}.next_due(queue.id), arrivals.next_due_at);

        SELECT stats.dead_lettered, stats.dead_counted_at, stats.arrived
        INTO old
        FROM {schema}.queue_stats AS stats
        WHERE stats.queue_id = queue.id;
        IF old.dead_counted_at BETWEEN now() - p_dead_seconds * interval '1 second' AND now() THEN
            dead_lettered := old.dead_lettered;
        ELSE
            SELECT count(*) INTO dead_lettered FROM (
                SELECT FROM {schema}.dead_jobs AS dead WHERE dead.queue_id = queue.id LIMIT most) AS few;
        END IF;

        SELECT sum(part.completed) AS completed, sum(part.failed) AS failed, sum(part.dead_lettered) AS dead_lettered,
            sum(part.left) AS left, sum(part.service_seconds) AS service_seconds
        INTO totals
        FROM (
            SELECT total.completed, total.failed, total.dead_lettered, total.service_seconds,
                total.completed + total.dead_lettered + total.cancelled - total.redriven AS left
            FROM {schema}.queue_totals AS total
            WHERE total.queue_id = queue.id
            UNION ALL
            SELECT lease.completed, lease.failed, lease.dead_lettered, lease.service_seconds,
                lease.completed + lease.dead_lettered
            FROM {schema}.leases AS lease
            WHERE lease.queue_id = queue.id
        ) AS part;
        service_histogram := ARRAY (
            SELECT coalesce(sum(part.service_histogram[bucket]), 0)::bigint
            FROM generate_series(1, 12) AS bucket,
                LATERAL (
                    SELECT total.service_histogram FROM {schema}.queue_totals AS total WHERE total.queue_id = queue.id
                    UNION ALL
                    SELECT lease.service_histogram FROM {schema}.leases AS lease WHERE lease.queue_id = queue.id
                ) AS part
            GROUP BY bucket
            ORDER BY bucket
        );
        name := queue.name;
        paused := queue.paused;
        counted_at := now();
        completed := coalesce(totals.completed, 0);
        failed := coalesce(totals.failed, 0);
        dead_lettered_ever := coalesce(totals.dead_lettered, 0);
        service_seconds := coalesce(totals.service_seconds, 0);
        arrived := greatest(old.arrived,
            coalesce(totals.left, 0) + live + due + waiting + suspects + waiting_suspects + in_groups);
        RETURN NEXT;
    END LOOP;
END
$body$;

-- Whether anything could start now: one look, from the youngest job on, which is the likeliest to be free.
CREATE OR REPLACE FUNCTION {schema}.has_ready(p_queue integer) RETURNS boolean
LANGUAGE plpgsql STABLE SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
AS $body$
DECLARE
    most_arrivals CONSTANT bigint := 20000;
    held bigint[];
BEGIN
    held := ARRAY (
        SELECT unnest(claim.job_ids)
        FROM {schema}.claims AS claim
            JOIN {schema}.leases AS lease
                ON lease.id = claim.lease_id AND lease.was_alone IS NULL
                    AND {schema}.runs(lease.expires_at, lease.lease_seconds)
        WHERE claim.queue_id = p_queue);
    RETURN EXISTS (
            SELECT
            FROM generate_series(0, 10) AS level (priority),
                LATERAL (
                    SELECT
                    FROM {schema}.jobs AS job
                    WHERE job.queue_id = p_queue AND job.priority = level.priority::smallint
                        AND job.id NOT IN (SELECT unnest(held))
                        AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now())
                    ORDER BY job.id DESC
                    LIMIT 1
                ) AS first
        )
        OR EXISTS (
            SELECT FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = p_queue AND job.state = 'delayed' AND job.run_at <= now()
                AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now()))
        OR EXISTS (
            SELECT FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = p_queue AND job.state = 'suspect' AND (job.run_at IS NULL OR job.run_at <= now())
                AND (job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now()))
        OR EXISTS (
            SELECT
            FROM (
                SELECT few.group_key, min(few.id) AS first_id
                FROM (
                    SELECT job.id, job.group_key FROM {schema}.parked_jobs AS job
                    WHERE job.queue_id = p_queue AND job.state = 'arrived'
                    ORDER BY job.enqueued_at LIMIT most_arrivals) AS few
                GROUP BY few.group_key
            ) AS of_group
                JOIN LATERAL (
                    SELECT job.run_at IS NULL OR job.run_at <= now() AS is_due,
                        job.expires_at IS NULL OR job.attempt > 0 OR job.expires_at > now() AS is_unexpired
                    FROM {schema}.parked_jobs AS job
                    WHERE job.queue_id = p_queue AND job.id = of_group.first_id
                    OFFSET 0
                ) AS head ON head.is_due AND head.is_unexpired
            WHERE (SELECT held.head_id
                FROM {schema}.group_heads AS held
                WHERE held.queue_id = p_queue AND held.group_key >= of_group.group_key
                    AND held.group_key <= of_group.group_key
                ORDER BY held.group_key DESC
                LIMIT 1) IS NULL
        )
        -- Of so many that nobody has looked at, some may: a worker will.
        OR (SELECT job.id
            FROM {schema}.parked_jobs AS job
            WHERE job.queue_id = p_queue AND job.state = 'arrived'
            OFFSET most_arrivals LIMIT 1) IS NOT NULL;
END
$body$;
