"""What users of other servers type, and what it is called here or what to do instead. Data only.

Looked at only where a command is wrong. Options are those of gunicorn, uvicorn, waitress, uWSGI,
granian and hypercorn that do not exist here, and some that one might guess.
"""

_LOG_FILE = (
    "messages go to standard error and the access log to standard output: redirect them, or give "
    "the loggers aiowsgi.error and aiowsgi.access handlers in the application"
)
_LOG_SETUP = (
    "configure logging in the application: the loggers are aiowsgi.error and aiowsgi.access"
)
_LOG_FORMAT = (
    "not yet: the access log has one format; give the logger aiowsgi.access a handler to change it"
)
_RELOAD_FILES = "write --reload --reload-include PATTERN, or a file or folder in its place"
_WORKERS = "it is called --workers here"
_ARGUMENT = "name it in the argument instead: MODULE:CALLABLE, or the path of a file"
_NEEDLESS = "leave it out: it is always so here"
_NOTHING = "there is no such option, and no need for it"
_PROXIES = "write --forwarded-allow-ips ADDRESSES of the proxies, and see --forwarded-headers"
_PREFIX = (
    "it is called --script-name here, and cuts the prefix from paths; with --script-name-strip, "
    "a web server in front has cut it"
)
_PROXY_PROTOCOL = (
    'write --bind "HOST:PORT?proxy=on&trust=ADDRESS", with the address or network of the proxy'
)
_TLS = "write --bind tls:HOST:PORT with --certfile and --keyfile"
_METRICS = (
    "not yet: there are no metrics; kill -URG and server.inspect() show what the server is doing"
)
_WEBSOCKETS = "WSGI has no WebSockets; an ASGI server such as uvicorn has"
_HTTP2 = "not yet: there is no HTTP/2; put a proxy such as nginx in front"
_LOADED_LATE = "leave it out: without --preload, each worker loads the application itself"
_SOCKET_MODE = (
    'write it behind the address: --bind "unix:PATH?mode=660&group=www-data", also with owner=; '
    "without, every user may connect, unless --umask forbids it"
)
_ASYNC = "leave it out: connections are on an event loop, and the application on --threads"
_STRICT = "there is no such option: a request that breaks the standard is refused"
_SUPERVISOR = "run it under a supervisor, such as systemd or a container"
_STATIC = "not yet: files are served by a proxy in front, or by the application"
_SERVER_FIELD = "not yet: responses say Server: aiowsgi, unless the application sets the field"
_TITLES = (
    "leave it out: with the extra titles (setproctitle), the processes of --workers are called "
    "aiowsgi: supervisor, worker or mold, and after the application"
)
_ENVIRONMENT = "set the variables before the start: NAME=VALUE python -m aiowsgi"

_BY_NAMES = (
    # What is served, and where.
    ("--listen", "write --bind HOST:PORT (or --backlog N, if a queue's length is meant)"),
    (
        "--socket -s --uwsgi-socket",
        "write --bind uwsgi:HOST:PORT or --bind uwsgi:unix:PATH for uwsgi_pass of nginx, "
        "or without uwsgi: for HTTP",
    ),
    ("--http-socket --insecure-bind", "write --bind HOST:PORT or --bind unix:PATH"),
    ("--uds --unix-socket", "write --bind unix:PATH"),
    ("--fd", "write --bind fd:N"),
    ("--uds-permissions --unix-socket-perms --chmod-socket --chown-socket", _SOCKET_MODE),
    ("--app-dir --working-dir", "it is called --chdir here"),
    ("--pythonpath", "set PYTHONPATH in the environment, or see --chdir"),
    ("--virtualenv --venv --home -H", "run the command of that environment: VENV/bin/aiowsgi"),
    ("--wsgi-file --file", "name the file as the argument: python -m aiowsgi FILE.py"),
    ("--module --callable --app --wsgi", _ARGUMENT),
    ("--factory --call", "name the call in the argument instead: module:factory()"),
    ("--paste --paster --ini-paste", "not yet: load it in a module: paste.deploy.loadapp()"),
    ("--mount --manage-script-name", "one application is served; below a path with --script-name"),
    ("--interface --protocol --lifespan", "leave it out: this server speaks HTTP and WSGI"),
    ("--root-path --url-prefix --url-path-prefix", _PREFIX),
    (
        "--url-scheme",
        "a proxy can tell it in X-Forwarded-Proto: see --forwarded-allow-ips",
    ),
    ("--server-name", "not yet: SERVER_NAME is the address; applications use the Host field"),
    ("--static-map --static-path-mount --static-path-route --check-static", _STATIC),
    ("--config -c --ini --yaml --json --xml", "not yet: options stand on the command line"),
    ("--check-config --print-config", "not yet: a wrong option is told before anything is served"),
    ("--env -e --env-file --env-files", _ENVIRONMENT),
    # Processes and threads.
    ("--worker-class -k", _ASYNC),
    ("--gevent --gevent-monkey-patch --asyncio --async --greenlet", _ASYNC),
    ("--event-loop --asgi-loop", "it is called --loop here"),
    ("--runtime-mode --task-impl --asyncore-use-poll --asyncore-loop-timeout", "see --loop"),
    ("--http-parser", "it is called --http here"),
    ("--processes", _WORKERS),
    ("--master -M", "leave it out: --workers N has a supervisor"),
    ("--cheaper", "not yet: there are always as many as --workers says, or SIGTTIN and SIGTTOU"),
    ("--respawn-failed-workers --respawn-interval", f"{_NEEDLESS}, with --workers N"),
    ("--lazy-apps --lazy", _LOADED_LATE),
    ("--blocking-threads", "it is called --threads here"),
    (
        "--runtime-threads --runtime-blocking-threads",
        "the application has --threads; the rest, one",
    ),
    ("--blocking-threads-idle-timeout", "not yet: threads stay once they are there"),
    ("--enable-threads --single-interpreter --need-app --strict", _NEEDLESS),
    ("--thunder-lock", _NEEDLESS),
    ("--offload-threads", "leave it out: the event loop sends files and finished responses"),
    ("--reset-contextvars", _NEEDLESS),
    ("--limit-max-requests", "it is called --max-requests here"),
    ("--limit-max-requests-jitter", "it is called --max-requests-jitter here"),
    ("--workers-lifetime --max-worker-lifetime", "it is called --max-age here"),
    ("--workers-max-rss --reload-on-rss", "it is called --max-rss here"),
    ("--reload-extra-file --reload-dir --reload-paths --extra-files", _RELOAD_FILES),
    ("--touch-reload", _RELOAD_FILES),
    ("--py-autoreload", "it is called --reload here"),
    ("--reload-engine", "leave it out: it is watchfiles if that is installed, else polling"),
    (
        "--reload-exclude --reload-ignore-dirs --exclude-patterns --reload-ignore-patterns "
        "--reload-ignore-paths",
        "leave it out: only .py files count, and what --reload-include names",
    ),
    (
        "--reload-delay --reload-tick",
        "leave it out: files that change together are one restart",
    ),
    ("--worker-connections --connection-limit", "it is called --max-connections here"),
    ("--limit-concurrency --backpressure", "see --max-connections and --queue-size"),
    ("--post-fork", "it is called --on-worker-start here, and takes MODULE:FUNCTION"),
    (
        "--hook-pre-app --hook-as-user --hook-master-start --hook-accepting1",
        "it is called --on-start here, and takes a Python function: MODULE:FUNCTION",
    ),
    (
        "--hook-post-app --hook-post-fork --hook-accepting",
        "it is called --on-worker-start here, and takes a Python function: MODULE:FUNCTION",
    ),
    (
        "--hook-as-user-atexit --exec-as-user-atexit",
        "it is called --on-stop here, and takes a Python function: MODULE:FUNCTION",
    ),
    # Process and system.
    ("--daemon -D --daemonize", _SUPERVISOR),
    ("--pid --pidfile --safe-pidfile", "it is called --pid-file here"),
    ("-p", "which one is meant? --port or --pid-file"),
    ("--uid", "it is called --user here"),
    ("--gid", "it is called --group here"),
    ("--initgroups", "leave it out: with --user, the process is in all groups of that user"),
    ("--name -n --process-name --procname --procname-prefix --auto-procname", _TITLES),
    ("--vacuum", "leave it out: the file of a Unix socket is removed at the end"),
    ("--die-on-term", "leave it out: SIGTERM stops the server, with requests in flight finished"),
    ("--no-orphans", "leave it out: workers end when their supervisor does"),
    ("--worker-tmp-dir", "leave it out: there are no such files"),
    ("--control-socket --no-control-socket", _METRICS),
    ("-v", "write --version"),
    ("--no-sendfile --enable-stdio-inheritance -R --recv-bytes --send-bytes", _NOTHING),
    ("--emperor --cron --spooler --plugin --plugins", _SUPERVISOR),
    # Timeouts.
    (
        "--timeout -t",
        "which one is meant? --timeout-keep-alive, --timeout-header, --timeout-body, "
        "--timeout-request, --timeout-write, --timeout-handshake, --timeout-proxy, "
        "--timeout-graceful or --timeout-worker",
    ),
    ("--harakiri", "it is called --timeout-request here"),
    ("--graceful-timeout --timeout-graceful-shutdown", "it is called --timeout-graceful here"),
    (
        "--workers-kill-timeout --reload-mercy --worker-reload-mercy",
        "it is called --timeout-graceful here",
    ),
    ("--keep-alive --http-keepalive --channel-timeout", "it is called --timeout-keep-alive here"),
    ("--http1-keep-alive --no-http1-keep-alive", "see --timeout-keep-alive"),
    ("--http1-header-read-timeout", "it is called --timeout-header here"),
    (
        "--http-timeout --socket-timeout --read-timeout",
        "see --timeout-body for requests and --timeout-write for responses",
    ),
    ("--timeout-worker-healthcheck", "it is called --timeout-worker here"),
    # Limits and buffers.
    ("--limit-request-field_size", "it is called --limit-request-field-size here"),
    ("--max-request-body-size --limit-post", "it is called --limit-request-body here"),
    (
        "--max-request-header-size --h11-max-incomplete-event-size --http1-buffer-size "
        "--buffer-size",
        "it is called --limit-request-head here",
    ),
    ("--post-buffering --inbuf-overflow", "see --body-prefetch and --body-spool"),
    ("--outbuf-overflow --outbuf-high-watermark", "see --response-buffer and --max-buffered"),
    ("--cleanup-interval --channel-request-lookahead --http1-pipeline-flush", _NOTHING),
    # Logging and metrics.
    ("--access-logfile --error-logfile --error-log --log-file --logto --log", _LOG_FILE),
    ("--access-logformat --access-log-format --access-log-fmt --log-format", _LOG_FORMAT),
    ("--disable-logging", "write --no-access-log"),
    ("--no-log", "write --no-access-log and --log-level critical"),
    ("--log-config --log-config-json --logger-class", _LOG_SETUP),
    ("--log-syslog --log-syslog-to --log-syslog-prefix --log-syslog-facility", _LOG_SETUP),
    ("--capture-output --spew --use-colors --no-use-colors", _NOTHING),
    ("--expose-tracebacks", "it is called --debug here, and is for development only"),
    ("--no-expose-tracebacks", "leave it out: clients see no tracebacks without --debug"),
    ("--log-socket-errors --disable-redirect-access-to-syslog", _NOTHING),
    ("--statsd-host --statsd-prefix --dogstatsd-tags --stats", _METRICS),
    ("--metrics --no-metrics --metrics-address --metrics-port --enable-backlog-metric", _METRICS),
    # TLS, proxies, protocols.
    ("--ssl-certfile --ssl-certificate --cert --certificate", "it is called --certfile here"),
    ("--ssl-keyfile --key", "it is called --keyfile here"),
    ("--ssl-keyfile-password", "it is called --keyfile-password here"),
    ("--ssl-ca-certs --ssl-ca", "it is called --ca-certs here"),
    ("--ssl-ciphers", "it is called --ciphers here"),
    ("--ssl-version --ssl-protocol-min", "write --tls-min 1.2 or --tls-min 1.3"),
    (
        "--cert-reqs --ssl-cert-reqs --ssl-client-verify --no-ssl-client-verify --verify-mode",
        "write --client-certs none, --client-certs optional or --client-certs required",
    ),
    ("--https --https-socket", _TLS),
    ("--ssl --tls", "leave it out: with --certfile and --keyfile, addresses speak HTTPS"),
    ("--http-to-https", "let the application redirect: it sees which scheme was asked for"),
    ("--sni --sni-dir", "give --certfile for each certificate: clients get the one for their host"),
    ("--ssl-crl", "not yet: certificates of clients that were revoked are not refused"),
    ("--do-handshake-on-connect --suppress-ragged-eofs", _NEEDLESS),
    ("--proxy-headers --trusted-proxy --trusted-proxy-count --secure-scheme-headers", _PROXIES),
    (
        "--no-proxy-headers",
        "leave it out: without --forwarded-allow-ips, the fields of proxies mean nothing",
    ),
    (
        "--trusted-proxy-headers --forwarder-headers",
        "it is called --forwarded-headers here, with commas between the names",
    ),
    (
        "--clear-untrusted-proxy-headers --no-clear-untrusted-proxy-headers",
        "with --forwarded-allow-ips, the fields of other peers are dropped, or see "
        "--forwarded-keep",
    ),
    ("--log-untrusted-proxy-headers", f"{_NEEDLESS}, once, with --forwarded-allow-ips"),
    ("--proxy-protocol --proxy-allow-from --enable-proxy-protocol", _PROXY_PROTOCOL),
    (
        "--uwsgi-allow-from",
        "leave it out: whoever can connect to uwsgi: is trusted; write --bind uwsgi:unix:PATH",
    ),
    ("--header", "set the field in the application, or in a middleware"),
    ("--server-header --no-server-header --ident", _SERVER_FIELD),
    ("--date-header --no-date-header", "there is no such option: responses have a Date field"),
    ("--ws --no-ws --ws-max-size --ws-max-queue --ws-ping-interval --ws-ping-timeout", _WEBSOCKETS),
    ("--ws-per-message-deflate --websocket-ping-interval", _WEBSOCKETS),
    ("--websocket-max-message-size", _WEBSOCKETS),
    ("--http2 --http2-cleartext --http2-max-concurrent-streams --quic-bind", _HTTP2),
    ("--permit-obsolete-folding --strip-header-spaces --casefold-http-method", _STRICT),
    ("--permit-unconventional-http-method --permit-unconventional-http-version", _STRICT),
)

# What to say about an option, by each of its names.
HINTS = {name: text for names, text in _BY_NAMES for name in names.split()}
