-- The request of the row "upload": wrk builds it once, adds Content-Length, and repeats it.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"
wrk.body = string.rep("x", 1024 * 1024)
