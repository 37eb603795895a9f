"""Decides when to poll the API, and for which runs: a list page, or single requests within the budget.

Open runs and what earlier answers showed go in; answers about runs come out.
"""
