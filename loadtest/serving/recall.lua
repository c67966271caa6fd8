-- For wrk: sends the recalls whose bodies are the lines of the file named after "--".

local requests, at = {}, 0

function init(arguments)
  for body in io.lines(arguments[1]) do
    local headers = { ["content-type"] = "application/json" }
    requests[#requests + 1] = wrk.format("POST", "/recall", headers, body)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary)
  local failed = summary.errors
  local bad = failed.status + failed.connect + failed.read + failed.write + failed.timeout
  io.write(string.format("good answers a second: %.1f\n",
    (summary.requests - bad) / summary.duration * 1e6))
end
