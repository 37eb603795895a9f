"""The first stage: open runs go in, and finished ones go on to `floradl.runs` with the API's last answer.

`open_runs` keeps which runs are open and when each is due; their rows stay in the queue. At each tick
`poller` takes those that are due and decides how to poll them: by the list pages that pay (`list_pages`), the
others by single requests, a few at a time, as the rate limiter has room. What an answer shows becomes one of
three outcomes: `RetryIn` (the run's next time, from `planner`), `FinishedRun` (to the next stage), `Halted`.
`planner` learns when a poll is worth it: how long runs of a technique take (`durations`, `duration_model`),
what `progress` is worth (`progress_eta`), and whether webhooks come. `circuit_breaker` pauses both stages
where no run can go on, and has one of them, the probe, look now and then whether that is over.
A run is in one place at a time: due (`due_queue`), in the poller's hands, waiting for a slot, or being saved.
"""
