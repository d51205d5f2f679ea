"""What runs inside Redis. One script a verb, each atomic; it takes any number of keys, in a Cluster one at a time.

A key holds ``running TOKEN`` with the lease as its time to live, or ``finished TOKEN`` with the days it is remembered.
``ARGV`` is that time in milliseconds, then each key's token. Written for whoever reads them with ``redis-cli``, and for
an ACL that allows what docs/idempotency.md names: a command more here is a right more there.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Script(NamedTuple):
    """A script, and the name under which a server that has seen it knows it."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


CLAIMED = 0
FINISHED = -1

CLAIM = _script(f"""\
local answers = {{}}
for i, key in ipairs(KEYS) do
  local running = 'running ' .. ARGV[i + 1]
  if redis.call('SET', key, running, 'NX', 'PX', ARGV[1]) then
    answers[i] = {CLAIMED}
  else
    local held = redis.call('GET', key)
    if string.sub(held, 1, 9) == 'finished ' then
      answers[i] = {FINISHED}
    elseif held == running then
      redis.call('PEXPIRE', key, ARGV[1])
      answers[i] = {CLAIMED}
    else
      answers[i] = math.max(1, redis.call('PTTL', key))
    end
  end
end
return answers
""")
"""Answers with `CLAIMED`, `FINISHED`, or for how many milliseconds another's claim lasts."""

# Does not bring back what ran out: an extension overtaken by a release would lock the key for a lease.
EXTEND = _script("""\
local answers = {}
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == 'running ' .. ARGV[i + 1] then
    answers[i] = redis.call('PEXPIRE', key, ARGV[1])
  else
    answers[i] = 0
  end
end
return answers
""")

FINISH = _script("""\
local answers = {}
for i, key in ipairs(KEYS) do
  local held = redis.call('GET', key)
  local finished = 'finished ' .. ARGV[i + 1]
  if not held or held == 'running ' .. ARGV[i + 1] then
    redis.call('SET', key, finished, 'PX', ARGV[1])
    answers[i] = 1
  elseif held == finished then
    answers[i] = 1
  else
    answers[i] = 0
  end
end
return answers
""")

RELEASE = _script("""\
local answers = {}
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == 'running ' .. ARGV[i + 1] then
    answers[i] = redis.call('DEL', key)
  else
    answers[i] = 0
  end
end
return answers
""")

# Besides keys, counts of failed attempts: ``COUNT TOKEN``, of whoever counted last. Asked again, that is counted once.
COUNT_FAILURE = _script("""\
local answers = {}
for i, key in ipairs(KEYS) do
  local held = redis.call('GET', key) or ''
  local count = tonumber(string.match(held, '^%d+')) or 0
  if held ~= count .. ' ' .. ARGV[i + 1] then
    count = count + 1
    redis.call('SET', key, count .. ' ' .. ARGV[i + 1], 'PX', ARGV[1])
  end
  answers[i] = count
end
return answers
""")

READ_FAILURES = _script("""\
local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = tonumber(string.match(redis.call('GET', key) or '', '^%d+')) or 0
end
return answers
""")

FORGET_FAILURES = _script("""\
local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = redis.call('DEL', key)
end
return answers
""")
