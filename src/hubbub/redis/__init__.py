"""Redis and Valkey: the connections that broker and presence stand on.

Answers for: `pipeline`, the commands of many callers over one supervised connection; `subscription`, one supervised
connection that listens; and what both stand on: `dialing` opens and greets, `wire` speaks RESP3, `topology` knows what
a URL means, `backoff` how long to wait. Refuses to know: publications, presence, and every key.
"""
