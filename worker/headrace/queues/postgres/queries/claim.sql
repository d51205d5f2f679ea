-- Claiming, and waiting for what can be claimed. Named queries; what they call stands in ``functions/``.

-- name: find_queue
-- The queue's row: its id and its settings, as of now.
SELECT id, visibility_timeout_seconds, max_retries, message_retention_seconds, completed_retention_seconds,
    dead_letter_enabled, dead_letter_retention_days, paused OR paused_by_hand AS paused
FROM {schema}.queues
WHERE name = $1

-- name: claim
-- Jobs that are leased now: up to $3 of queue $1, under lease $2, from $4 on where that was found after look $6, without
-- the names $5.
SELECT * FROM {schema}.claim($1, $2, $3, $4, $5, $6)

-- name: claim_suspect
-- One suspect, for a worker that holds nothing.
SELECT * FROM {schema}.claim_suspect($1, $2)

-- name: make_room
-- Whether it is this lease's turn to hold nothing, so that it can take a suspect.
SELECT {schema}.make_room($1, $2)

-- name: next_due
-- In how many seconds the next delayed job is due; null without one. Those that were due $2 seconds ago have been looked at.
SELECT extract(epoch FROM {schema}.next_due($1, $2) - now())::double precision

-- name: wait
-- From now on this session wants to be told. Sessions that are gone want nothing any more.
WITH stale AS (
    DELETE FROM {schema}.waiters
    WHERE queue_id = $1 AND NOT EXISTS (SELECT FROM pg_stat_activity AS session WHERE session.pid = waiters.pid)
)
INSERT INTO {schema}.waiters (queue_id, pid) VALUES ($1, pg_backend_pid()) ON CONFLICT DO NOTHING

-- name: want_news
-- The same for many queues at once, by name; gives the channels on which they are told.
WITH wanted AS (
    SELECT id, name FROM {schema}.queues WHERE name = ANY ($1)
), stale AS (
    DELETE FROM {schema}.waiters
    WHERE queue_id IN (SELECT id FROM wanted)
        AND NOT EXISTS (SELECT FROM pg_stat_activity AS session WHERE session.pid = waiters.pid)
), flags AS (
    INSERT INTO {schema}.waiters (queue_id, pid) SELECT id, pg_backend_pid() FROM wanted ON CONFLICT DO NOTHING
)
SELECT name, {schema}.channel(id) AS channel FROM wanted

-- name: want_no_news
-- Of these queues, by name, no news are wanted any more.
DELETE FROM {schema}.waiters
WHERE pid = pg_backend_pid() AND queue_id IN (SELECT id FROM {schema}.queues WHERE name = ANY ($1))

-- name: wait_no_more
-- This session is busy.
DELETE FROM {schema}.waiters WHERE queue_id = $1 AND pid = pg_backend_pid()
