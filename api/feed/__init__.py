"""The log as a feed: exported, or followed."""
