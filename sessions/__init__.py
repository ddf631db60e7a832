"""Floor 5: SessionManager and SchedulerService: what a trader starts, suspends, recovers and stops, and when it ticks."""
