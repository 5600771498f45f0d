"""Figures of agents, week by week."""
