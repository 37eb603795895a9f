"""The second stage: finished runs come in with their answer; files, sidecars and rows go out.

`scheduler` joins the stages. `slots` takes each `FinishedRun` into a bounded stream of its load, and starts
as many of each load at once as there are slots, so that large runs keep no small one waiting; what there is
no room for is polled again later. `processor` saves a run: it reads once what is on disk, has `output_saver`
fetch what is missing, and writes sidecar and row, in that order; each step can be run twice. It asks the API
for nothing but fresh URLs.
An error becomes an outcome in one place, by the table `floradl.retry.outcome_of`: retry in, fail, pause. A
run to be retried is polled again when it is due, as any other; the probe of a pause keeps its answer.
`result` says how a run ends, `events` reports it to log and displays, and counts.
"""
