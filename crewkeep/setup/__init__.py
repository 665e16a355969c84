"""What crewkeep writes into the agent programs' own configuration, when it is told to: hooks and the MCP server.

Belongs here: which file, which entry, and how it is taken out again. Every change is shown as a difference before it is made,
what others wrote there is kept, and only what bears our mark is ever removed. Does not belong here: what a hook does when called.
"""
