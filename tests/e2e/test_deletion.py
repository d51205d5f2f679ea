"""deletionPolicy: what happens to the jobs when their JobQueue goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.stage import Stage

JOBS = "SELECT count(*) FROM headrace.jobs JOIN headrace.queues ON queues.id = queue_id WHERE queues.name = $1"


def test_retain_keeps_the_jobs_and_a_new_jobqueue_of_the_name_finds_them(stage: Stage) -> None:
    stage.apply_queue("kept", deletionPolicy="Retain")
    stage.enqueue(3, seconds=0, queue="kept")

    stage.kubectl.delete("jobqueue", "kept")

    assert stage.sql(JOBS, "kept")[0]["count"] == 3
    stage.apply_queue("kept", deletionPolicy="Retain")
    assert stage.sql(JOBS, "kept")[0]["count"] == 3


def test_delete_takes_the_jobs_and_leaves_other_queues_alone(stage: Stage) -> None:
    stage.apply_queue("kept")
    stage.apply_queue("gone", deletionPolicy="Delete")
    stage.enqueue(3, seconds=0, queue="kept")
    stage.enqueue(3, seconds=0, queue="gone")

    stage.kubectl.delete("jobqueue", "gone")

    assert stage.sql("SELECT name FROM headrace.queues ORDER BY name") == [("kept",)]
    assert stage.sql(JOBS, "kept")[0]["count"] == 3
    assert stage.sql("SELECT count(*) FROM headrace.jobs")[0]["count"] == 3
