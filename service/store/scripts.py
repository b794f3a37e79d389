"""The scripts that Redis runs: one for each operation of `StoreBackend`, each atomic. `memory.py` has the same rules.

Keys, all with the prefix `rr:`; times are milliseconds of Redis's clock:

| key | type | content |
| --- | --- | --- |
| `epoch` | string | random id of this data; if it is missing, the data was lost |
| `fence` | string | the last fencing token |
| `pods` | sorted set | members by the time at which their leases lapse |
| `held:<member>` | hash | leases of a member: the scopes of each |
| `open:<scope>` | hash | number of leases by member; those of members that have lapsed do not count |
| `starts:<scope>` | list | times of the last starts, newest first |
| `spent:<scope>` | hash | day, month, and what was spent in each |
| `record:<id>` | hash | the highest amounts that a record has reported |
| `secret:<sha256>` | hash | expiry and state |
| `payload:<sha256>` | string | what the secret is for, until it is used or expires |

The scripts compute names of keys, so that they need one primary: no Redis Cluster.
"""

from typing import Final

NOW: Final = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)"

_LIFETIME: Final = """
local function alive(member, lease_ms)
  local deadline = redis.call('ZSCORE', 'rr:pods', member)
  if not deadline then return false end
  deadline = tonumber(deadline)
  if deadline > now + lease_ms then -- the clock was set back
    deadline = now + lease_ms
    redis.call('ZADD', 'rr:pods', deadline, member)
  end
  return now < deadline
end
local function open(scope, lease_ms)
  local all, sum = redis.call('HGETALL', 'rr:open:' .. scope), 0
  for i = 1, #all, 2 do
    if alive(all[i], lease_ms) then sum = sum + tonumber(all[i + 1])
    else redis.call('HDEL', 'rr:open:' .. scope, all[i]) end
  end
  return sum
end
local function hold(member, lease, scopes)
  redis.call('HSET', 'rr:held:' .. member, lease, table.concat(scopes, '\\n'))
  for _, scope in ipairs(scopes) do redis.call('HINCRBY', 'rr:open:' .. scope, member, 1) end
end
local function release(member, lease)
  local scopes = redis.call('HGET', 'rr:held:' .. member, lease)
  if not scopes then return end
  redis.call('HDEL', 'rr:held:' .. member, lease)
  for scope in scopes:gmatch('[^\\n]+') do
    if redis.call('HINCRBY', 'rr:open:' .. scope, member, -1) <= 0 then
      redis.call('HDEL', 'rr:open:' .. scope, member)
    end
  end
end
local function lapse(member) redis.call('ZADD', 'rr:pods', 'XX', now, member) end
-- Frees the keys of a member that has lapsed: at most `most` leases, so that a script stays short. The rest follows later.
local function clean(member, most)
  local leases = redis.call('HKEYS', 'rr:held:' .. member)
  for i = 1, math.min(#leases, most) do release(member, leases[i]) end
  if #leases <= most then redis.call('ZREM', 'rr:pods', member) end
end
"""

_SPENDING: Final = """
local DAY = 86400000
-- Gregorian calendar: 'days from civil' of Howard Hinnant, backwards.
local function month_of(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return year * 12 + month - 1
end
-- Six totals: micro-USD, tokens and milliseconds of the day, then of the month. A clock that was set back by less than a day
-- does not reset what it has reset at midnight already.
local function totals(scope)
  local f = redis.call('HMGET', 'rr:spent:' .. scope, 'day', 'month', 'd1', 'd2', 'd3', 'm1', 'm2', 'm3')
  local today = math.floor(now / DAY)
  local day = tonumber(f[1]) == today + 1 and today + 1 or today
  local month, sums = month_of(day), {}
  for i = 1, 3 do
    sums[i] = tonumber(f[1]) == day and tonumber(f[2 + i]) or 0
    sums[3 + i] = tonumber(f[2]) == month and tonumber(f[5 + i]) or 0
  end
  return sums, day, month
end
"""

# lease_ms, pod, epoch to create
_REGISTER: Final = """
local lease_ms, pod = tonumber(ARGV[1]), ARGV[2]
for _, member in ipairs(redis.call('ZRANGE', 'rr:pods', 0, -1)) do
  if member:match('^(.*)#%d+$') == pod then lapse(member) end
end
local fence = string.format('%.0f', math.max(tonumber(redis.call('GET', 'rr:fence') or 0) + 1, now))
redis.call('SET', 'rr:fence', fence)
redis.call('ZADD', 'rr:pods', now + lease_ms, pod .. '#' .. fence)
redis.call('SET', 'rr:epoch', ARGV[3], 'NX')
return {fence, redis.call('GET', 'rr:epoch')}
"""

# lease_ms, member, then for each lease: id, number of scopes, and for each scope: key, maximum or -1
_HOLD: Final = """
local lease_ms, member = tonumber(ARGV[1]), ARGV[2]
if not alive(member, lease_ms) then return false end
local over, sums, i = {}, {}, 3
while ARGV[i] do
  local lease, scopes, full = ARGV[i], {}, false
  for _ = 1, tonumber(ARGV[i + 1]) do
    local scope, most = ARGV[i + 2], tonumber(ARGV[i + 3])
    sums[scope] = sums[scope] or open(scope, lease_ms)
    full = full or (most >= 0 and sums[scope] >= most)
    scopes[#scopes + 1] = scope
    i = i + 2
  end
  if redis.call('HEXISTS', 'rr:held:' .. member, lease) == 0 then
    for _, scope in ipairs(scopes) do sums[scope] = sums[scope] + 1 end
    hold(member, lease, scopes)
    if full then over[#over + 1] = lease end
  end
  i = i + 2
end
return over
"""

# lease_ms, member, then the leases to release
_HEARTBEAT: Final = """
local lease_ms, member = tonumber(ARGV[1]), ARGV[2]
if not alive(member, lease_ms) then return false end
redis.call('ZADD', 'rr:pods', now + lease_ms, member)
for i = 3, #ARGV do release(member, ARGV[i]) end
local lapsed = redis.call('ZRANGEBYSCORE', 'rr:pods', '-inf', now, 'LIMIT', 0, 1)
if lapsed[1] then clean(lapsed[1], 500) end
return redis.call('GET', 'rr:epoch') or ''
"""

# lease_ms, member, lease, then for each scope: key, sessions, starts, and the ceilings of month and day, each -1 if none
_ACQUIRE: Final = """
local lease_ms, member, lease = tonumber(ARGV[1]), ARGV[2], ARGV[3]
if not alive(member, lease_ms) then return {'lapsed'} end
if redis.call('HEXISTS', 'rr:held:' .. member, lease) == 1 then return {'held'} end
local WINDOW, WIDTH, scopes = 60000, 9, {}
local function limit(k, i) return tonumber(ARGV[3 + (k - 1) * WIDTH + i]) end
for k = 1, (#ARGV - 3) / WIDTH do
  local scope = ARGV[4 + (k - 1) * WIDTH]
  local sums = totals(scope)
  for i = 1, 6 do
    local most, used = limit(k, 3 + i), sums[i <= 3 and i + 3 or i - 3]
    if most >= 0 and used >= most then return {'refused', k, i, used, most, now} end
  end
  local sessions, starts = limit(k, 2), limit(k, 3)
  if sessions >= 0 then
    local used = open(scope, lease_ms)
    if used >= sessions then return {'refused', k, 7, used, sessions, 0} end
  end
  if starts == 0 then return {'refused', k, 8, 0, 0, WINDOW} end
  if starts > 0 then
    local age = now - (tonumber(redis.call('LINDEX', 'rr:starts:' .. scope, starts - 1)) or -WINDOW)
    if age >= 0 and age < WINDOW then return {'refused', k, 8, starts, starts, WINDOW - age} end
  end
  scopes[k] = scope
end
for k, scope in ipairs(scopes) do
  local starts = limit(k, 3)
  if starts > 0 then
    redis.call('LPUSH', 'rr:starts:' .. scope, now)
    redis.call('LTRIM', 'rr:starts:' .. scope, 0, starts - 1)
    redis.call('PEXPIRE', 'rr:starts:' .. scope, WINDOW)
  end
end
hold(member, lease, scopes)
return {'held'}
"""

# member
_LEAVE: Final = "lapse(ARGV[1]) return 1"

# final_ms, open_ms, spent_ms, number of reports, for each: record, 1 if final, three amounts, number of scopes, scopes; then
# the scopes to return
_SPEND: Final = """
local i = 5
for _ = 1, tonumber(ARGV[4]) do
  local key, new, fields = 'rr:record:' .. ARGV[i], {}, {}
  local known = redis.call('HMGET', key, '1', '2', '3', 'until')
  if tonumber(known[4] or 0) <= now then known = {} end
  for j = 1, 3 do
    local before, amount = tonumber(known[j] or 0), tonumber(ARGV[i + 1 + j])
    new[j] = math.max(0, amount - before)
    redis.call('HSET', key, tostring(j), math.max(amount, before))
  end
  local keep = tonumber(ARGV[i + 1] == '1' and ARGV[1] or ARGV[2])
  redis.call('HSET', key, 'until', now + keep)
  redis.call('PEXPIRE', key, keep)
  local scopes = tonumber(ARGV[i + 5])
  i = i + 6
  for s = i, i + scopes - 1 do
    local sums, day, month = totals(ARGV[s])
    redis.call('HSET', 'rr:spent:' .. ARGV[s], 'day', day, 'month', month,
      'd1', sums[1] + new[1], 'd2', sums[2] + new[2], 'd3', sums[3] + new[3],
      'm1', sums[4] + new[1], 'm2', sums[5] + new[2], 'm3', sums[6] + new[3])
    redis.call('PEXPIRE', 'rr:spent:' .. ARGV[s], ARGV[3])
  end
  i = i + scopes
end
local answer = {}
for s = i, #ARGV do answer[#answer + 1] = totals(ARGV[s]) end
return answer
"""

# sha256, payload, ttl_ms, how long it is remembered after its expiry in ms
_PUT: Final = """
local key = 'rr:secret:' .. ARGV[1]
local expires = redis.call('HGET', key, 'expires')
if expires and now < tonumber(expires) + tonumber(ARGV[4]) then return 0 end
redis.call('DEL', key)
redis.call('HSET', key, 'expires', now + tonumber(ARGV[3]))
redis.call('PEXPIRE', key, tonumber(ARGV[3]) + tonumber(ARGV[4]))
redis.call('SET', 'rr:payload:' .. ARGV[1], ARGV[2], 'PX', ARGV[3])
return 1
"""

# sha256, how long it is remembered after its expiry in ms
_FIND: Final = """
local key = 'rr:secret:' .. ARGV[1]
local f = redis.call('HMGET', key, 'expires', 'state')
if not f[1] or now >= tonumber(f[1]) + tonumber(ARGV[2]) then return {'unknown'} end
if f[2] then return {f[2]} end
local payload = now < tonumber(f[1]) and redis.call('GET', 'rr:payload:' .. ARGV[1])
"""
_READ: Final = f"""{_FIND}
if payload then return {{'payload', payload}} end
return {{'expired'}}
"""
_TAKE: Final = f"""{_FIND}
redis.call('DEL', 'rr:payload:' .. ARGV[1])
redis.call('HSET', key, 'state', payload and 'used' or 'expired')
if payload then return {{'payload', payload}} end
return {{'expired'}}
"""


_BODIES: Final = {
    "register": _REGISTER,
    "hold": _HOLD,
    "heartbeat": _HEARTBEAT,
    "acquire": _ACQUIRE,
    "leave": _LEAVE,
    "spend": _SPEND,
    "put_secret": _PUT,
    "read_secret": _READ,
    "take_secret": _TAKE,
}


def scripts(now: str = NOW) -> dict[str, str]:
    """The scripts by operation; `now` is the line that reads the clock."""
    return {name: f"{now}\n{_LIFETIME}{_SPENDING}{body}" for name, body in _BODIES.items()}
