"""What the Redis broker asks the server to do in one step: the streams, in Lua.

Answers for: the keys' contents, and for every step that nobody may come in between (B1, B3, S3, S5). Refuses to know:
names of keys, connections, and what a body says.

A stream is two keys, of which either may be lost without the other:

    meta    a hash: `e` epoch, `s` the top offset, `v` and `w` the last version and its epoch
    list    the bodies of what is kept, oldest first; the last one has the offset `s`

A missing meta is a stream that nobody knows: it gets a new epoch, and what is left of a list goes with the first
publish. A missing list is a stream of which nothing is kept (any more); its head stays.

Why a list and not a stream (XADD): it is trimmed exactly by nature, its offsets are arithmetic, and a `latest` channel
takes 360 bytes instead of 4,700. The server's time was the same within what could be measured.

Text beside the Python that calls it, and no files: they share pieces, and arguments are counted here and there.
"""

from __future__ import annotations

from typing import Final

from hubbub.redis.pipeline import Script

#: Reads the meta, or begins a life of the stream. Defines `epoch`, `top`, `head`. `is_new`: it had none.
_OPEN = """
local head = redis.call('HMGET', KEYS[1], 'e', 's', 'v', 'w')
local epoch, top, is_new = head[1], tonumber(head[2] or 0), not head[1]
if is_new then
  epoch, top, head = nonce, 0, {}
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'e', epoch, 's', 0)
end
"""

#: To look is to use: what was published into is remembered for long, what was only asked for as long as the caller
#: says, and never shorter than another one has said.
_USE = """
local function use(meta, top, is_new, asked, long)
  if top > 0 then
    redis.call('EXPIRE', meta, long)
  elseif is_new then
    redis.call('EXPIRE', meta, asked)
  else
    redis.call('EXPIRE', meta, asked, 'GT')
  end
end
"""

#: KEYS: meta, list, result (where this publish leaves word of itself).
#: Answers: "epoch offset", and 1 if nothing was published. The word of a live publish is empty.
PUBLISH: Final = Script(
    """
local body, size, ttl, channel, nonce, long = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local word_ttl, version, version_epoch = ARGV[7], ARGV[8], ARGV[9]
"""
    + _OPEN
    + """
-- Versions are compared as text, of one length: a Lua number has 53 bits.
local is_news = version == '' or version > (head[3] or '')
  or (version_epoch ~= '' and version_epoch ~= (head[4] or ''))
local at = epoch .. ' ' .. string.format('%.0f', is_news and top + 1 or top)
local before = redis.call('SET', KEYS[3], at, 'NX', 'GET', 'PX', word_ttl)
if before then
  if is_new then redis.call('EXPIRE', KEYS[1], 60) end
  return {before, 1}
end
if not is_news then return {at, 1} end
if version == '' then
  redis.call('HSET', KEYS[1], 's', string.format('%.0f', top + 1))
else
  redis.call('HSET', KEYS[1], 's', string.format('%.0f', top + 1), 'v', version, 'w', version_epoch)
end
redis.call('EXPIRE', KEYS[1], long)
if top == 0 then redis.call('DEL', KEYS[2]) end  -- of a former life
if redis.call('RPUSH', KEYS[2], body) > size then redis.call('LTRIM', KEYS[2], -size, -1) end
redis.call('PEXPIRE', KEYS[2], ttl)
redis.call('PUBLISH', channel, '\\193\\001p' .. at .. ' ' .. body)
return {at, 0}
"""
)

#: KEYS: result. Announces a message unless the word is there. Answers: the word before, or nil.
PUBLISH_LIVE: Final = Script(
    """
local before = redis.call('SET', KEYS[1], '', 'NX', 'GET', 'PX', ARGV[3])
if not before then redis.call('PUBLISH', ARGV[1], ARGV[2]) end
return before
"""
)

#: KEYS: metas. ARGV: nonce, seconds for what was published into, and for each that was not.
#: Answers: epoch and top of each, one after the other.
HEADS: Final = Script(
    _USE
    + """
local heads = {}
for number, meta in ipairs(KEYS) do
  local head = redis.call('HMGET', meta, 'e', 's')
  local epoch, top, is_new = head[1], tonumber(head[2] or 0), not head[1]
  if is_new then
    epoch, top = ARGV[1] .. 'x' .. number, 0
    redis.call('DEL', meta)
    redis.call('HSET', meta, 'e', epoch, 's', 0)
  end
  use(meta, top, is_new, ARGV[2 + number], ARGV[2])
  heads[#heads + 1] = epoch
  heads[#heads + 1] = top
end
return heads
"""
)

#: KEYS: meta, list. Answers: epoch, top, the offset of the first one, and the bodies, in the direction of reading.
READ: Final = Script(
    _USE
    + """
local after, limit, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local is_back, nonce = ARGV[4] == '1', ARGV[5]
"""
    + _OPEN
    + """
use(KEYS[1], top, is_new, ARGV[6], ARGV[7])
local kept = top > 0 and redis.call('LLEN', KEYS[2]) or 0
local first = top - kept + 1
local from, upto
if is_back then
  upto = (after > 0 and after <= top) and after - 1 or top
  from = math.max(first, upto - limit + 1)
else
  from = math.max(first, after + 1)
  upto = math.min(top, from + limit - 1)
end
local bodies, bytes, wanted = {}, 0, 16
local start = is_back and upto or from
-- A few at a time, by the size of those before: a page is cut by its bytes, and bodies may have a megabyte each.
while from <= upto do
  local low, high = from, math.min(upto, from + wanted - 1)
  if is_back then low, high = math.max(from, upto - wanted + 1), upto end
  local piece = redis.call('LRANGE', KEYS[2], low - first, high - first)
  for number = 1, #piece do
    local body = piece[is_back and #piece + 1 - number or number]
    bytes = bytes + #body + 160
    if bytes > max_bytes and #bodies > 0 then return {epoch, top, start, bodies} end
    bodies[#bodies + 1] = body
  end
  if is_back then upto = low - 1 else from = high + 1 end
  wanted = math.max(1, math.min(1000, math.ceil((max_bytes - bytes) * #bodies / bytes)))
end
return {epoch, top, start, bodies}
"""
)

#: KEYS: meta and list of each. ARGV: epoch, offset and SHA-1 of the body of each. Answers: 1 for each that is altered.
ALTERED: Final = Script(
    """
local altered = {}
for number = 1, #KEYS / 2 do
  local head = redis.call('HMGET', KEYS[2 * number - 1], 'e', 's')
  local offset, top = tonumber(ARGV[3 * number - 1]), tonumber(head[2] or 0)
  altered[number] = 0
  if head[1] == ARGV[3 * number - 2] then
    local body = redis.call('LINDEX', KEYS[2 * number], offset - top - 1)  -- -1 is the last one
    if top < offset or (body and redis.sha1hex(body) ~= ARGV[3 * number]) then altered[number] = 1 end
  end
end
return altered
"""
)

#: KEYS: meta, list. ARGV: the epoch that is no more, nonce, seconds for what was asked for, and for the other.
#: Answers: epoch and top.
REPLACE: Final = Script(
    _USE
    + "local nonce = ARGV[2]\n"
    + _OPEN
    + """
if epoch == ARGV[1] then
  epoch = nonce
  redis.call('HSET', KEYS[1], 'e', epoch)
end
use(KEYS[1], top, is_new, ARGV[3], ARGV[4])
return {epoch, top}
"""
)
