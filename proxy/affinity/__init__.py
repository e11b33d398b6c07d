"""The affinity table: which client belongs to which session host, shared by all who open it.

`store` is the contract; each store is a module, and a line in `stores.STORES`.
"""
