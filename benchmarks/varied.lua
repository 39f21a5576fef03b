-- The requests of the row "varied": no two have the same path, cookie or request id.
local first, second, third, last

function init(arguments)
   wrk.headers["X-Request-Id"] = "@"
   wrk.headers["Cookie"] = wrk.headers["Cookie"]:gsub("sessionid=%x+", "sessionid=@")
   local pieces = {}
   for piece in (wrk.format("GET", "/account/orders/@") .. "@"):gmatch("([^@]*)@") do
      pieces[#pieces + 1] = piece
   end
   first, second, third, last = unpack(pieces)
end

local number = 0

function request()
   number = number + 1
   local id = string.format("%032x", number)
   return first .. id .. second .. id .. third .. id .. last
end
