"""The face for agents that speak MCP: the shared context, sessions, claims and messages as tools and resources.

Belongs here: names, descriptions and shapes of tools. Does not belong here: what they do; that is the rooms' below. The server is
asynchronous, its tools are not: each runs on a thread of the library's pool.
"""
