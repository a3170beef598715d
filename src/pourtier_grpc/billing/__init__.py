"""Subscriptions: plans, charges, renewals, usage, and what each plan lets people do.

What is paid goes from `purchases` (a call) or `renewals` (the worker) by `opening`,
which writes the charge, and `charging` or `collecting`, which ask Passeur, to
`outcomes`. Each change of a subscription is a transition of `machine`, written by
`book`. What costs nothing is in `own_subscriptions`, what operators do in `support`,
what a restored database has forgotten in `reconciliation`; what plans let people use,
in `usage` and `entitlements`. CONTRIBUTING.md has a map.
"""
