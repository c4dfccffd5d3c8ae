"""What runs on a machine with a GPU: equality of answers, times to first token, peers, start-up."""
