"""What both sides share: identities, units, text, how a process begins. Standard library only."""
