"""Floor 6: PositionTracker: looks at everything about a session and decides once."""
