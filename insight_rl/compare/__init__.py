"""Comparisons of selectors that others can trust: a plan, paired runs, statistics, a report."""
