-- compatible-with: 1
-- functions: cae77fd30018
-- The tables that all queues of one schema share. Forward only: what is released is never edited. What the schema does
-- stands in ``functions/``, in today's text.
--
-- A job is one row from enqueue to completion, and then gone: hot tables hold live jobs only. Being leased does not touch
-- the row. Who holds what stands in `claims`, one row for each batch that a worker took: a job is in flight if and only
-- if its id stands in a claim whose lease exists. So a job costs one insert and one delete, and a crash charges nothing.
--
-- `jobs` has one full index, its primary key, in the order in which jobs are claimed. Whatever can't be claimed yet is
-- parked in a table of its own, however much of it there is.
--
-- No table refers to `queues` by a foreign key: each insert would lock the queue's row, which all of its workers and
-- producers share. Removing a queue removes what belongs to it.

CREATE TABLE {schema}.queues (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    owner_namespace text NOT NULL,
    owner_name text NOT NULL,
    owner_uid text NOT NULL,
    owner_cluster text NOT NULL DEFAULT '',
    owner_seen_at timestamptz NOT NULL DEFAULT now(),
    visibility_timeout_seconds double precision NOT NULL,
    max_retries integer NOT NULL,
    message_retention_seconds double precision,
    completed_retention_seconds double precision NOT NULL DEFAULT 0,
    dead_letter_enabled boolean NOT NULL,
    dead_letter_retention_days double precision NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    paused_by_hand boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE {schema}.queues IS 'One row a queue: whom it belongs to and what it does with its jobs.';
COMMENT ON COLUMN {schema}.queues.owner_cluster IS 'What tells its Kubernetes cluster from others; empty where there is none.';
COMMENT ON COLUMN {schema}.queues.owner_seen_at IS 'When its owner last vouched for it: another cluster may take over who was not seen for long.';
COMMENT ON COLUMN {schema}.queues.paused IS 'By its owner, the JobQueue; paused_by_hand is for people. Either pauses.';

-- A worker writes nothing of its jobs while it keeps them alive: it extends its lease.
-- No index on expires_at, so that extending stays within the page (HOT).
CREATE TABLE {schema}.leases (
    id bigint PRIMARY KEY
        DEFAULT ('x' || left(replace(gen_random_uuid()::text, '-', ''), 12) || right(gen_random_uuid()::text, 3))::bit(60)::bigint,
    queue_id integer NOT NULL,
    heartbeats boolean NOT NULL DEFAULT true,
    was_alone boolean,
    expires_at timestamptz NOT NULL,
    lease_seconds double precision NOT NULL,
    made_room_at timestamptz,
    completed bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    dead_lettered bigint NOT NULL DEFAULT 0,
    service_seconds double precision NOT NULL DEFAULT 0,
    service_histogram bigint[] NOT NULL DEFAULT '{}',
    holder text NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE {schema}.leases IS 'Who holds jobs, and until when. An id is random and never used again, not even after a restore: it fences late completions.';
COMMENT ON COLUMN {schema}.leases.heartbeats IS 'Whether its worker extends it; else it lasts for the queue''s visibility timeout.';
COMMENT ON COLUMN {schema}.leases.was_alone IS
    'Null while its worker can extend it. Else the worker has lost a job that somebody had locked, and the next rescue takes it: true where it died holding no other.';
COMMENT ON COLUMN {schema}.leases.made_room_at IS 'Since when it was this worker''s turn to let its jobs run out, so that it can take a suspect.';
COMMENT ON COLUMN {schema}.leases.completed IS 'What was done under it (as failed to service_histogram); queue_totals has what ended leases did.';
CREATE INDEX leases_of_queue ON {schema}.leases (queue_id, id);

CREATE TABLE {schema}.claims (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lease_id bigint NOT NULL,
    last_id bigint NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    queue_id integer NOT NULL,
    priority smallint NOT NULL,
    last_return bigint,
    look bigint,
    job_ids bigint[] NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE {schema}.claims IS 'Which jobs, all of one priority, are held under which lease; an id leaves when its job is settled.';
COMMENT ON COLUMN {schema}.claims.last_return IS 'Of jobs that came back, the highest number; null: of jobs that have not.';
COMMENT ON COLUMN {schema}.claims.look IS 'The watch''s when this was claimed; null where names were left out.';
CREATE INDEX claims_of_queue ON {schema}.claims (queue_id, priority, last_id);
CREATE INDEX claims_of_returns ON {schema}.claims (queue_id, priority, last_return) WHERE last_return IS NOT NULL;
CREATE INDEX claims_of_lease ON {schema}.claims (lease_id);

-- A row of its own, so that a word of progress does not write a long claim again. Unlogged: it is worth no disk write.
CREATE UNLOGGED TABLE {schema}.progress (
    lease_id bigint NOT NULL,
    claim_id bigint NOT NULL,
    told jsonb NOT NULL,
    PRIMARY KEY (lease_id, claim_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE {schema}.progress IS 'By claim and job: how far it is (fraction, message), where its handler says so.';

CREATE SEQUENCE {schema}.returns;
COMMENT ON SEQUENCE {schema}.returns IS 'Numbers the jobs that became ready again after younger ones: see jobs.came_back.';

-- Every table of jobs has these columns, in this order. Functions name them by one word in braces: JOB_COLUMNS in
-- statements.py is their list.
CREATE TABLE {schema}.jobs (
    id bigint GENERATED BY DEFAULT AS IDENTITY,
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    run_at timestamptz,
    expires_at timestamptz,
    came_back bigint,
    lost_at timestamptz,
    queue_id integer NOT NULL,
    attempt smallint NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 10),
    deaths smallint NOT NULL DEFAULT 0,
    losses smallint NOT NULL DEFAULT 0,
    suspect boolean NOT NULL DEFAULT false,
    name text NOT NULL DEFAULT '',
    payload bytea NOT NULL DEFAULT 'null',
    content_type text,
    headers jsonb,
    group_key text,
    deduplication_key text,
    failures jsonb,
    extra jsonb,
    PRIMARY KEY (queue_id, priority, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_analyze_threshold = 5000);
COMMENT ON TABLE {schema}.jobs IS 'The jobs that can be claimed, or are.';
COMMENT ON COLUMN {schema}.jobs.attempt IS 'Failed attempts. A drain or a lost worker charges none.';
COMMENT ON COLUMN {schema}.jobs.run_at IS 'When the job was to start; null: when it was enqueued.';
COMMENT ON COLUMN {schema}.jobs.came_back IS 'Null, or its number among those that became ready after younger jobs: so they are found without a look from the start.';
COMMENT ON COLUMN {schema}.jobs.content_type IS 'Null: application/json.';
COMMENT ON COLUMN {schema}.jobs.deaths IS 'How many workers died while they held this job and no other.';
COMMENT ON COLUMN {schema}.jobs.losses IS 'How many workers died while they held this job, the last one at lost_at; forgotten after a day.';
COMMENT ON COLUMN {schema}.jobs.suspect IS 'Two workers died while they held this job: it is claimed alone.';
COMMENT ON COLUMN {schema}.jobs.failures IS 'Failed attempts, oldest first: attempt, at, error, error_type, fingerprint; the last one with its traceback.';
COMMENT ON COLUMN {schema}.jobs.extra IS 'Fields of the envelope that the code which enqueued it knows; carried along as they are.';
CREATE INDEX jobs_expiring ON {schema}.jobs (queue_id, expires_at) WHERE expires_at IS NOT NULL AND attempt = 0;
CREATE INDEX jobs_that_came_back ON {schema}.jobs (queue_id, priority, came_back) WHERE came_back IS NOT NULL;

CREATE TYPE {schema}.parked_state AS ENUM ('delayed', 'arrived', 'behind', 'suspect');
COMMENT ON TYPE {schema}.parked_state IS
    'delayed until run_at; arrived: new in its group, not looked at; behind the head of its group; suspect, to be claimed alone';

CREATE TABLE {schema}.parked_jobs (
    LIKE {schema}.jobs INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS,
    state {schema}.parked_state NOT NULL,
    PRIMARY KEY (queue_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_analyze_threshold = 5000);
COMMENT ON TABLE {schema}.parked_jobs IS 'The jobs that can''t be claimed yet; they move to jobs when they can.';
CREATE INDEX parked_delayed ON {schema}.parked_jobs (queue_id, run_at) WHERE state = 'delayed';
CREATE INDEX parked_arrivals ON {schema}.parked_jobs (queue_id, enqueued_at) WHERE state = 'arrived';
CREATE INDEX parked_by_group ON {schema}.parked_jobs (queue_id, group_key, id) WHERE state IN ('arrived', 'behind');
CREATE INDEX parked_suspects ON {schema}.parked_jobs (queue_id, priority DESC, id) WHERE state = 'suspect';
CREATE INDEX parked_expiring ON {schema}.parked_jobs (queue_id, expires_at)
    WHERE expires_at IS NOT NULL AND attempt = 0;

-- No primary key: to see that a group has no other row, the server would look at all that it ever had.
CREATE TABLE {schema}.groups (
    queue_id integer NOT NULL,
    head_id bigint NOT NULL,
    next_id bigint NOT NULL,
    head_priority smallint NOT NULL,
    group_key text NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE {schema}.groups IS 'The newest head of each group, which may be gone: a group without a row has none.';
COMMENT ON COLUMN {schema}.groups.next_id IS 'No job waits in the group with an id below.';
CREATE INDEX groups_by_key ON {schema}.groups (queue_id, group_key);

CREATE TABLE {schema}.dead_jobs (
    LIKE {schema}.jobs INCLUDING DEFAULTS INCLUDING COMMENTS,
    dead_at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL,
    error text,
    PRIMARY KEY (queue_id, id)
);
COMMENT ON TABLE {schema}.dead_jobs IS 'The dead-letter queue: jobs given up, whole, with the reason and the last error.';
CREATE INDEX dead_jobs_by_age ON {schema}.dead_jobs (queue_id, dead_at);

CREATE TABLE {schema}.finished_jobs (
    LIKE {schema}.jobs INCLUDING DEFAULTS INCLUDING COMMENTS,
    finished_at timestamptz NOT NULL DEFAULT now(),
    outcome text NOT NULL CHECK (outcome IN ('completed', 'cancelled')),
    PRIMARY KEY (queue_id, id)
);
COMMENT ON TABLE {schema}.finished_jobs IS 'The history of finished jobs, where a queue keeps one (completed_retention_seconds).';
CREATE INDEX finished_jobs_by_age ON {schema}.finished_jobs (queue_id, finished_at);

CREATE TABLE {schema}.deduplication_keys (
    queue_id integer NOT NULL,
    key text NOT NULL,
    job_id bigint NOT NULL,
    kept_until timestamptz,
    finished boolean NOT NULL DEFAULT false,
    PRIMARY KEY (queue_id, key)
);
COMMENT ON TABLE {schema}.deduplication_keys IS 'Keys that are taken: while their job is unfinished, and until kept_until.';
CREATE INDEX deduplication_keys_ending ON {schema}.deduplication_keys (queue_id, kept_until) WHERE finished;

CREATE TABLE {schema}.cancellations (
    queue_id integer NOT NULL,
    job_id bigint NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue_id, job_id)
);
COMMENT ON TABLE {schema}.cancellations IS 'Running jobs that shall stop; their workers learn of it with the next heartbeat.';

CREATE TABLE {schema}.completed_heads (
    queue_id integer NOT NULL,
    job_id bigint NOT NULL,
    group_key text NOT NULL,
    PRIMARY KEY (queue_id, job_id)
);
COMMENT ON TABLE {schema}.completed_heads IS 'Jobs of groups, completed in a transaction of their handler''s own, whose worker has not let their group go on yet.';

-- Every worker publishes the depth; one of them counts, the others read what it found.
CREATE TABLE {schema}.queue_stats (
    queue_id integer PRIMARY KEY,
    counted_at timestamptz NOT NULL DEFAULT '-infinity',
    took_seconds double precision NOT NULL DEFAULT 0,
    ready bigint NOT NULL DEFAULT 0,
    delayed bigint NOT NULL DEFAULT 0,
    blocked bigint NOT NULL DEFAULT 0,
    in_flight bigint NOT NULL DEFAULT 0,
    in_flight_seconds double precision NOT NULL DEFAULT 0,
    dead_lettered bigint NOT NULL DEFAULT 0,
    dead_counted_at timestamptz NOT NULL DEFAULT '-infinity',
    oldest_ready_age_seconds double precision NOT NULL DEFAULT 0,
    next_due_at timestamptz,
    is_lower_bound boolean NOT NULL DEFAULT false,
    arrived bigint NOT NULL DEFAULT 0,
    completed bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    dead_lettered_ever bigint NOT NULL DEFAULT 0,
    service_seconds double precision NOT NULL DEFAULT 0,
    service_histogram bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE {schema}.queue_stats IS 'The newest count of each queue, shared among its workers.';

-- Several rows a queue, where several want to add at once: nobody waits. What counts is their sum.
CREATE TABLE {schema}.queue_totals (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue_id integer NOT NULL,
    completed bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    dead_lettered bigint NOT NULL DEFAULT 0,
    cancelled bigint NOT NULL DEFAULT 0,
    redriven bigint NOT NULL DEFAULT 0,
    service_seconds double precision NOT NULL DEFAULT 0,
    service_histogram bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
COMMENT ON TABLE {schema}.queue_totals IS 'What has happened in each queue since it was made, but for what leases that run still keep to themselves.';
CREATE INDEX totals_of_queue ON {schema}.queue_totals (queue_id);

-- Unlogged: a flag is worth no disk write, and none outlives a restart of the server, as no session does.
CREATE UNLOGGED TABLE {schema}.waiters (
    queue_id integer NOT NULL,
    pid integer NOT NULL,
    PRIMARY KEY (queue_id, pid)
);
COMMENT ON TABLE {schema}.waiters IS 'Sessions that LISTEN for jobs of a queue and have nothing to do: only they are notified.';

-- Unlogged: it is empty after a crash of the server, and on a standby that has been promoted. Without a row,
-- nobody was there to see who reports.
CREATE UNLOGGED TABLE {schema}.watches (
    queue_id integer PRIMARY KEY,
    since timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    swept_at timestamptz NOT NULL DEFAULT '-infinity',
    swept_to text NOT NULL DEFAULT '',
    judging_from timestamptz,
    look bigint NOT NULL DEFAULT 0,
    look_at timestamptz NOT NULL DEFAULT '-infinity',
    hungry_at timestamptz NOT NULL DEFAULT '-infinity',
    full_at timestamptz NOT NULL DEFAULT '-infinity',
    look_seconds double precision NOT NULL DEFAULT 0,
    near_seconds double precision NOT NULL DEFAULT 0,
    floors bigint[] NOT NULL DEFAULT array_fill(0::bigint, ARRAY [22]),
    near_floors bigint[] NOT NULL DEFAULT array_fill(0::bigint, ARRAY [22]),
    kept_floors bigint[] NOT NULL DEFAULT array_fill(0::bigint, ARRAY [22]),
    kept_at timestamptz NOT NULL DEFAULT '-infinity',
    due_from timestamptz NOT NULL DEFAULT '-infinity',
    arrived_from timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE {schema}.watches IS 'Since when each queue has been looked after without a break, and when it was last.';
COMMENT ON COLUMN {schema}.watches.swept_at IS 'When its groups were looked at last.';
COMMENT ON COLUMN {schema}.watches.swept_to IS 'Up to which group, where the next look goes on; empty: all of them.';
COMMENT ON COLUMN {schema}.watches.look IS 'The number of the last look for jobs from the start; what follows it is for claim() alone.';
COMMENT ON COLUMN {schema}.watches.look_at IS 'When the next is due.';
COMMENT ON COLUMN {schema}.watches.hungry_at IS 'From when on whoever finds nothing may make one before.';
COMMENT ON COLUMN {schema}.watches.full_at IS 'From when on a look is from the very start; until then, from near_floors.';
COMMENT ON COLUMN {schema}.watches.look_seconds IS 'How long the last from the very start took.';
COMMENT ON COLUMN {schema}.watches.near_seconds IS 'How long the last from near_floors took.';
COMMENT ON COLUMN {schema}.watches.floors IS 'Where it ended: by priority the id, then by priority the number of jobs that came back, below which nothing is left.';
COMMENT ON COLUMN {schema}.watches.near_floors IS 'The floors of two to five seconds ago; those of kept_at come next.';
COMMENT ON COLUMN {schema}.watches.due_from IS 'No delayed job that was due before is left.';
COMMENT ON COLUMN {schema}.watches.arrived_from IS 'No arrival that was enqueued before is left.';
COMMENT ON COLUMN {schema}.watches.judging_from IS 'Since when somebody who asks for stuck jobs by hand waits for workers to report.';
