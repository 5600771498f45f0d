"""Who is let in, what they may do, and what they see."""
