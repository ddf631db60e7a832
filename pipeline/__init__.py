"""Floor 1: how the apps hear of one another, and how no word gets lost."""
