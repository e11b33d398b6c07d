"""Beside the path: what the proxy tells people and asks of hosts.

Health checks, metrics, logs, HTTP and the operator's view. The parts do not know each other; the
front joins them.
"""
