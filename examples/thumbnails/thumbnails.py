"""Draw landscapes and keep their thumbnails: one row for each run of a job, so that a job run twice shows.

The rows go to `public.thumbnails` in the queue's own database, which every worker finds in its binding.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from PIL import Image, ImageDraw

from headrace import App, Context

PICTURE = (640, 480)
THUMBNAIL = (128, 96)
FETCH_SECONDS = 0.1
"""Stands for fetching the original from an object store: most jobs wait more than they compute."""

# Workers start together; without the lock two of them making the table at once could fail each other.
CREATE_TABLE = """
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('public.thumbnails'));
CREATE TABLE IF NOT EXISTS public.thumbnails (
    job_id text NOT NULL,
    attempt int NOT NULL,
    enqueued_at timestamptz NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    image bytea NOT NULL,
    PRIMARY KEY (job_id, started_at)
);
COMMIT;
"""
INSERT = "INSERT INTO public.thumbnails VALUES ($1, $2, $3, $4, $5, $6)"

app = App()


class Gallery:
    """The table of thumbnails, opened with the first one."""

    def __init__(self) -> None:
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    async def add(self, *row: object) -> None:
        """Keep one row."""
        pool = await self._opened()
        await pool.execute(INSERT, *row)

    async def _opened(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                uri = Path(os.environ["SERVICE_BINDING_ROOT"], "queue", "uri")
                pool = await asyncpg.create_pool(await asyncio.to_thread(uri.read_text), min_size=0, max_size=2)
                try:
                    await pool.execute(CREATE_TABLE)
                except BaseException:
                    pool.terminate()
                    raise
                self._pool = pool
            return self._pool


gallery = Gallery()


@app.job("thumbnail")
async def thumbnail(payload: dict[str, Any], context: Context) -> None:
    """Draw the landscape of the payload's seed (and, so that no two are alike, of the job) and keep its thumbnail."""
    started_at = datetime.now(UTC)
    job = context.job
    await asyncio.sleep(FETCH_SECONDS)
    # In a thread: the event loop goes on sending this worker's heartbeats meanwhile.
    image = await asyncio.to_thread(draw, f"{payload['seed']} {job.id}")
    await gallery.add(job.id, job.attempt, job.enqueued_at, started_at, datetime.now(UTC), image)


def draw(seed: str) -> bytes:
    """Return a PNG; the same for the same seed."""
    chance = random.Random(seed)
    width, height = PICTURE
    hue = chance.random()
    sky = Image.linear_gradient("L").resize(PICTURE)
    picture = Image.merge("HSV", (sky.point(lambda _: int(hue * 255)), sky, Image.new("L", PICTURE, 235))).convert(
        "RGB"
    )
    canvas = ImageDraw.Draw(picture)

    radius = chance.randint(25, 60)
    x, y = chance.randint(radius, width - radius), chance.randint(radius, height // 2)
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 244, 214))

    ranges = chance.randint(4, 7)
    for near in range(ranges):
        base = height * (0.45 + 0.55 * near / ranges)
        waves = [(chance.uniform(0.002, 0.02), chance.uniform(0, math.tau), chance.uniform(5, 40)) for _ in range(4)]
        ridge = [
            (x, base + sum(math.sin(x * rate + phase) * size for rate, phase, size in waves))
            for x in range(0, width + 4, 4)
        ]
        shade = int(170 - 140 * near / ranges)
        colour = (
            Image.new("HSV", (1, 1), (int((hue + 0.08 * near) % 1 * 255), 110, shade)).convert("RGB").getpixel((0, 0))
        )
        canvas.polygon([(0, height), *ridge, (width, height)], fill=colour)

    picture.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    return png.getvalue()
