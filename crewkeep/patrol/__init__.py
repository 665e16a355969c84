"""The patrol: one process per home that notices dead owners at once and brings their sessions back.

Belongs here: the patrol's own process. An owner's side of the connection, and starting a patrol, is ``patrol_client``.
Does not belong here: what to do with a dead session (``recovery``), or what a keeper does itself.
"""

from crewkeep.patrol_client import PatrolLink, ensure_patrol

__all__ = ["PatrolLink", "ensure_patrol"]
