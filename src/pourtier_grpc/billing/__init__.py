"""Subscriptions: plans, charges, renewals, usage, and what each plan lets people do."""
