"""Methods that need no restoration loop."""
