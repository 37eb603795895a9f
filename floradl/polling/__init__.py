"""The first stage: open runs come in; finished ones go out to `floradl.runs` with the API's last answer.

`open_runs` keeps the open runs and when each is due (`due_queue`); their rows stay in the queue. At each tick
`poller` polls the due ones: by list pages where these save requests (`list_pages`), else by single requests
as the rate limiter allows. An answer becomes `RetryIn` (the next time, from `planner`), `FinishedRun` or
`Halted`.
`planner` learns when to poll: from `durations` by technique, from `progress`, and from webhooks.
`circuit_breaker` pauses both stages where no run can succeed, and tries one run now and then, the probe.
A run is in one place at a time: due, being polled, waiting for a slot, or being saved.
"""
