"""The daemon's own small HTTP server: FLORA's webhooks, health and metrics.

Requests go in; answers come out, and each webhook becomes a row of the queue before it is answered.
"""
