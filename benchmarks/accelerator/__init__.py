"""What an accelerator does with this package: its numbers, its speed, and what it survives."""
