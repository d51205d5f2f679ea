-- Counting. Named queries; what they call stands in ``functions/``.

-- name: depths
-- Queues, counted, by name.
SELECT *, extract(epoch FROM next_due_at - counted_at)::double precision AS next_due_seconds,
    extract(epoch FROM clock_timestamp() - counted_at)::double precision AS age_seconds
FROM {schema}.depths($1)

-- name: have_ready
-- Of queues, by name, whether anything is ready, and whether they are paused.
SELECT name, {schema}.has_ready(id) AS has_ready, paused OR paused_by_hand AS paused FROM {schema}.queues WHERE name = ANY ($1)

-- name: has_ready
-- Whether anything in the queue could start now.
SELECT {schema}.has_ready($1)

-- name: count_and_share
-- The newest count that a worker shared, however old it is; counted anew before, where it is older than $2 seconds and than
-- ten times what it took, and nobody else counts just now. The dead are counted once a minute.
WITH turn AS MATERIALIZED (
    SELECT queue_id
    FROM {schema}.queue_stats
    WHERE queue_id = $1
        AND counted_at NOT BETWEEN now() - greatest($2, 11 * took_seconds) * interval '1 second' AND now() + interval '5 seconds'
    FOR UPDATE SKIP LOCKED
), anew AS (
    UPDATE {schema}.queue_stats AS stats
    SET counted_at = counted.counted_at, ready = counted.ready, delayed = counted.delayed, blocked = counted.blocked,
        in_flight = counted.in_flight, in_flight_seconds = counted.in_flight_seconds,
        dead_counted_at = CASE
            WHEN stats.dead_counted_at BETWEEN now() - interval '1 minute' AND now() THEN stats.dead_counted_at
            ELSE counted.counted_at END,
        dead_lettered = counted.dead_lettered, oldest_ready_age_seconds = counted.oldest_ready_age_seconds,
        next_due_at = counted.next_due_at, is_lower_bound = counted.is_lower_bound, arrived = counted.arrived,
        completed = counted.completed, failed = counted.failed, dead_lettered_ever = counted.dead_lettered_ever,
        service_seconds = counted.service_seconds, service_histogram = counted.service_histogram,
        took_seconds = extract(epoch FROM clock_timestamp() - now())
    FROM turn, LATERAL {schema}.depths(ARRAY (SELECT name FROM {schema}.queues WHERE id = turn.queue_id), 60) AS counted
    WHERE stats.queue_id = turn.queue_id
    RETURNING stats.*
), newest AS (
    SELECT * FROM anew
    UNION ALL
    SELECT * FROM {schema}.queue_stats
    WHERE queue_id = $1 AND counted_at > '-infinity' AND NOT EXISTS (SELECT FROM anew)
)
SELECT newest.*, queue.paused OR queue.paused_by_hand AS paused,
    extract(epoch FROM newest.next_due_at - newest.counted_at)::double precision AS next_due_seconds,
    extract(epoch FROM clock_timestamp() - newest.counted_at)::double precision AS age_seconds
FROM newest JOIN {schema}.queues AS queue ON queue.id = newest.queue_id
