-- Settling. Named queries; what they call stands in ``functions/``.

-- name: complete
-- Of the jobs $3 in the claims $2 of lease $1, those that were held: they are done, and gone.
SELECT {schema}.complete($1, $2, $3)

-- name: acknowledge_completed
-- Of jobs completed in transactions, those that are gone indeed.
SELECT {schema}.acknowledge_completed($1, $2, $3, $4, $5)

-- name: release
-- Those that were held: they go back after their delays.
SELECT {schema}.release($1, $2, $3, $4)

-- name: retry
-- Those that were held, and whether no attempt was left.
SELECT id, is_dead FROM {schema}.retry($1, $2, $3, $4, $5)

-- name: dead_letter
-- Those that were held: they are dead, for these reasons.
SELECT {schema}.dead_letter($1, $2, $3, $4, $5)

-- name: discard
-- Those that were held: they were cancelled, and have stopped.
SELECT {schema}.discard($1, $2, $3)

-- name: settled_before
-- Of jobs that were held under a lease, those that are in their claims no more though it exists, and is not judged: it is
-- their holder who has settled them, in a call whose answer was lost.
SELECT DISTINCT asked.id
FROM unnest($2::bigint[], $3::bigint[]) AS asked (claim_id, id)
WHERE EXISTS (SELECT FROM {schema}.leases WHERE id = $1 AND was_alone IS NULL)
    AND NOT EXISTS (
        SELECT FROM {schema}.claims AS claim
        WHERE claim.id = asked.claim_id AND claim.lease_id = $1 AND asked.id = ANY (claim.job_ids)
    )
