"""What restore writes and eval reads: BIDS derivatives and their sidecars."""
