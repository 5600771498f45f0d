"""How the desk is set up."""
