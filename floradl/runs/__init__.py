"""The second stage: finished runs come in with their answer; files, sidecars and rows go out.

`scheduler` joins the stages. `slots` starts as many small and large runs at once as each kind has slots, so
that large ones delay no small one; a run without a slot is polled again later. `processor` saves a run: it
reads once what is on disk, has `output_saver` download what is missing, and writes sidecar and row, in that
order; each step can be repeated. It requests nothing of the API but fresh URLs.
The table `floradl.retry.outcome_of` turns every error into an outcome: retry in, fail, pause. A retried run
is polled when it is due, as any other; the probe of a pause keeps its answer.
`backfill` completes sidecars by what is learned later: more of a reference, late costs, names of techniques.
`result` is how a run ends; `events` reports it to log and displays, and counts.
"""
