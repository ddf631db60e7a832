"""Floor 4: OrderManager: the submission protocol, and what became of every order."""
