"""What workers do: run one task, sweep what is overdue, settle dead letters, drain a queue."""
