"""Floor 7: MoneyManager: sees every position, order and account; answers with a quantity or a denial."""
