"""The gateway: REST and server-sent events for the world, derived from the protos."""
