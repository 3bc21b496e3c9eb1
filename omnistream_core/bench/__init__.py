"""What a step costs, what the machine could do at best, and how near it comes."""
