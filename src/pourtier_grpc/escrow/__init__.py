"""The rules of escrows: what they hold, and what is moved in and out of them.

A transaction, in the contract and its table, is a deposit or a withdrawal of any age. A
transfer is one under way, leased to the call or the worker that asks Passeur about it.
An outcome is what came of asking, written by whoever holds the lease, or not at all.
Settlement is the way of a transfer in the background, until it is confirmed or failed.
(To the store, `Tx` is a transaction of the database.)
"""
