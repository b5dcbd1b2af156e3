"""The round state machine as pure decisions."""
