"""What Redis holds, behind one interface."""
